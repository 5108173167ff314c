"""A run folder -> the adapted model, ready to answer on one process or on many.

Not here: what it is asked.
"""
