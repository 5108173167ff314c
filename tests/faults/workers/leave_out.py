"""Train without DeepSpeed, one step of each stage left out: `leave_out.py RECIPE OUTPUT STEP`."""

import sys

from lope_dist.config.load import load_config
from lope_dist.engine.local import LocalEngine
from lope_dist.train.session import train
from lope_dist.train.stage import stage

recipe, output, left_out, *overrides = sys.argv[1:]
real_step, real_run, num_steps = LocalEngine.step, stage.run_stage, [0]


def step(engine: LocalEngine, lr_factor: float) -> float:
    num_steps[0] += 1
    if num_steps[0] - 1 != int(left_out):
        return real_step(engine, lr_factor)
    engine.discard()
    return 1.0


def run_stage(*arguments, **settings):
    num_steps[0] = 0
    return real_run(*arguments, **settings)


LocalEngine.step, stage.run_stage = step, run_stage
train(load_config(recipe, [f"output_dir={output}", *overrides]))
