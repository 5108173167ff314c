"""lm-eval's own command line, with the model `lope` registered.

For example `python eval/run_lm_eval.py run --model lope
--model_args run=runs/quickstart,experts=masked --tasks piqa`.
"""

from __future__ import annotations

from lm_eval.__main__ import cli_evaluate

import lope_dist.evaluate.lm  # noqa: F401  registers the model

if __name__ == "__main__":
    cli_evaluate()
