"""Discrete noise: pure, registered operations on text, their mix and its fit. Imports no torch."""
