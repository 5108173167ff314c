"""Scores through lm-eval, with the expert mask as an argument of the model."""
