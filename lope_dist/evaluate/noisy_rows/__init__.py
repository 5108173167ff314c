"""Which rows of a data set look noisy, how well that is known, and the data set without them.

Not here: training on noisy rows (`train`), and noise itself (`noise`).
"""
