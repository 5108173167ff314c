"""Train, with the loss of rank 1 made NaN in step 3: `nan_on_rank_1.py RECIPE OUTPUT_DIR`."""

import os
import sys

from lope_dist.config.load import load_config
from lope_dist.core.errors import LopeError
from lope_dist.train import loop
from lope_dist.train.session import train

recipe, output = sys.argv[1:]
real, real_global_loss = loop.summed_cross_entropy, loop._global_loss
step_now = [0]


def broken(*arguments):
    loss = real(*arguments)
    return loss * float("nan") if os.environ["RANK"] == "1" and step_now[0] == 3 else loss


def count(values, batches, step, world):
    loss = real_global_loss(values, batches, step, world)
    step_now[0] = step + 1
    return loss


loop.summed_cross_entropy, loop._global_loss = broken, count
try:
    train(load_config(recipe, [f"output_dir={output}"]))
except LopeError as error:
    print(f"error: {error}", flush=True)
    sys.exit(2)
