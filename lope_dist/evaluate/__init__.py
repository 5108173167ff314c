"""What a trained run answers: scores through lm-eval, losses of rows, generated text.

The only package that imports lm_eval. Not here: training steps, and pages about scores (`report`).
"""
