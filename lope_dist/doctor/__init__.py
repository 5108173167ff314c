"""What can be found wrong with hosts before anything expensive starts on them.

Not here: what is wrong with a recipe (`config`) or with rows (`corpus`).
"""
