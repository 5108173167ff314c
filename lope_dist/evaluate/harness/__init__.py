"""Scores through lm-eval: the model that it asks, its tasks, and the results.

The only package that imports lm_eval. Not here: questions that need no lm-eval (`losses`).
"""
