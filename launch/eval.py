"""Score a run on many ranks: `torchrun launch/eval.py RUN --suite paper`.

This is `lope eval` as a script, with the same options, for launchers that start a file:
`torchrun`, `deepspeed`, or plain python on one rank. Each rank holds the whole base model, or with
`--base sharded` its part of it, and answers its share of the batches. Rank 0 writes the scores.
Batches, few-shot examples, metrics and standard errors do not depend on the number of ranks.

Environment: as for launch/train.py. RUN and the model's folder must be readable on every host
by the same path. `--interface eth0` names the network between the hosts.
"""

from __future__ import annotations

import sys

from lope_dist.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "eval")
    main()
