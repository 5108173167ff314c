"""lm-eval's own command line, with the model `lope` registered.

For example `python eval/run_lm_eval.py run --model lope
--model_args run=runs/quickstart,experts=masked --tasks piqa`. One process; launch/eval.py is for
many.
"""

from __future__ import annotations

import os
import sys

from lm_eval.__main__ import cli_evaluate

import lope_dist.evaluate.harness.lm  # noqa: F401  registers the model

if __name__ == "__main__":
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.exit("error: this is one process' command; under a launcher use launch/eval.py.")
    cli_evaluate()
