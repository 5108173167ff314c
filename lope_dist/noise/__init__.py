"""Discrete noise: pure, registered operations on text, their mix and its fit.

Not here: torch, files, and embedding noise (`adapters`).
"""
