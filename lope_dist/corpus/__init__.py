"""From files of examples to this rank's tensors of one step.

One direction, each step a pure hand-over::

    readers -> layouts -> records (store) -> views (noise) -> prompts -> tokens -> batches
                          mixture, order ------^  loader: which examples, on which rank
"""
