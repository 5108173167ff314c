"""From files of examples to this rank's tensors of one step.

One direction, each step a pure hand-over::

    rows      a file's or a hub data set's rows, each an example of turns
    tokens    an example -> text in the model's form -> token ids, labels and marks of noise
    examples  all examples of `data`, checked in one pass and kept on disk
    built     the same as shards of tokens, made once for many starts
    feed      which of them are this rank's in this step -> batches

Beside them three commands: `corrupt`, `fit_noise` and `show`.

Not here: what noise does to a text (`noise`), and models.
"""
