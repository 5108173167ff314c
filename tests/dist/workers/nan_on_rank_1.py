"""Train, with the loss of rank 1 made NaN in step 3: `nan_on_rank_1.py RECIPE OUTPUT_DIR`.

Further arguments are overrides. `loss` first among them spoils the loss alone, `gradient` the
gradient alone; without either both are NaN.
"""

import os
import sys

from lope_dist.config.load import load_config
from lope_dist.core.errors import LopeError
from lope_dist.train.session import train
from lope_dist.train.stage import loop

recipe, output, *rest = sys.argv[1:]
what = rest.pop(0) if rest and rest[0] in ("loss", "gradient") else "both"
real_micro_step, real_plans = loop._micro_step, loop._plans
step_now = [-1]


def plans(*arguments):
    for step, plan in real_plans(*arguments):
        step_now[0] = step
        yield step, plan


def micro_step(session, parts, *rest):
    bad = os.environ["RANK"] == "1" and step_now[0] == 3
    if not bad:
        return real_micro_step(session, parts, *rest)
    engine = parts.engine
    real = engine.backward
    if what != "loss":
        engine.backward = lambda loss, last: real(loss * float("nan"), last)
    try:
        loss = real_micro_step(session, parts, *rest)
    finally:
        engine.backward = real
    return loss if what == "gradient" else loss * float("nan")


loop._micro_step, loop._plans = micro_step, plans
try:
    train(load_config(recipe, [f"output_dir={output}", *rest]))
except LopeError as error:
    print(f"error: {error}", flush=True)
    sys.exit(2)
