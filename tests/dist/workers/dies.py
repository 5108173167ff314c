"""Train, with one rank killed: `dies.py RECIPE OUTPUT_DIR RANK load|step`."""

import os
import signal
import sys
import time

from lope_dist.config.load import load_config
from lope_dist.core.errors import LopeError
from lope_dist.model import stream
from lope_dist.train.session import train
from lope_dist.train.stage import loop

recipe, output, victim, moment = sys.argv[1:]
real_quantize, real_loss = stream._Loader._quantize, loop.summed_loss
num_calls = [0]


def die_in_the_third_call() -> None:
    num_calls[0] += 1
    if os.environ["RANK"] == victim and num_calls[0] == 3:
        print(f"dies at {time.time()}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def quantize(self, *arguments):
    die_in_the_third_call()
    return real_quantize(self, *arguments)


def loss(*arguments):
    die_in_the_third_call()
    return real_loss(*arguments)


if moment == "load":
    stream._Loader._quantize = quantize
else:
    loop.summed_loss = loss
try:
    train(load_config(recipe, [f"output_dir={output}"]))
except LopeError as error:
    print(f"error: {error}\nended at {time.time()}", flush=True)
    sys.exit(error.status)
