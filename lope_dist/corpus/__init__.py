"""From files of examples to this rank's tensors of one step.

One direction, each step a pure hand-over::

    readers -> layouts -> survey (once) -> records (store)
    records -> views (noise) -> prompts -> tokens: `provider`, one path for training, for building
    provider or built corpus -> loader (mixture: which examples, on which rank) -> batches
"""
