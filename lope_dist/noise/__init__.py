"""Discrete noise: pure, registered operations on text, and their mix. Imports no torch."""
