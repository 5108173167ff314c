"""A run's checkpoints: their files, which one is meant, and what a run remembers through them.

Not here: when one is written (`stage`), and where (`run`).
"""
