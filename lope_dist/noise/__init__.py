"""Discrete noise on text: pure functions of (text, rng). No torch, no ranks."""
