"""From files of examples to this rank's tensors of one step.

One direction, each step a pure hand-over::

    rows -> records -> views (noise) -> prompts -> tokens -> batches
                            order --------^  loader: which examples, on which rank
"""
