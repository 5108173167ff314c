"""Stages, the loop and checkpoints."""
