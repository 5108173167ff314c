"""Losses of held-out responses, row by row, and the scale of the adapter that suits them.

Not here: scores of tasks (`harness`).
"""
