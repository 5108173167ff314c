"""Which examples this rank reads in this step, and the tensors that they become.

Not here: anything that depends on a row's text.
"""
