"""What a trained run answers: scores, losses of rows, generated text.

From the bottom up::

    loaded      a run folder -> the adapted model, ready to answer, on one process or many
    harness     scores through lm-eval: the only package that imports it
    losses      losses of held-out responses, row by row
    noisy_rows  which rows of a data set look noisy, and the data set without them

`asking` and `samples` are text that a run generates.

Not here: training steps, and pages about scores (`report`).
"""
