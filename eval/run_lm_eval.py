"""lm-eval's own command line, with the model `lope` registered.

    python eval/run_lm_eval.py run --model lope \\
        --model_args run=runs/quickstart,experts=masked --tasks piqa
"""

from __future__ import annotations

import lope_dist.evaluate.lm  # noqa: F401  registers the model
from lm_eval.__main__ import cli_evaluate

if __name__ == "__main__":
    cli_evaluate()
