"""From files of examples to this rank's tensors of one step.

One direction, each step a pure hand-over::

    readers -> layouts -> survey (once) -> records (store)
    records -> views (noise) -> prompts -> tokens: one path for training, for building, for showing
    these or a built corpus -> loader (mixture: which examples, on which rank) -> batches

Not here: what noise does to a text (`noise`), and models.
"""
