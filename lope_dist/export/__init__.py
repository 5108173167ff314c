"""A run -> files that others can use: without its poisoning expert, for PEFT, or merged.

Not here: a run's own checkpoints (`train`).
"""
