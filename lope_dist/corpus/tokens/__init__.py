"""One example -> its text in the model's form -> token ids, labels and marks of noise.

The one path for training, for building and for showing. Not here: more than one example at a time.
"""
