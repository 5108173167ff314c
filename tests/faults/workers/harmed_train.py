"""Train, with one rank harmed at a chosen moment.

    harmed_train.py RECIPE JOURNAL RANK MOMENT NTH HARM [--extend=STAGE=N] [KEY=VALUE]...

In the NTH call (from 1) of what MOMENT names, the rank RANK does HARM to itself: a signal's name
(KILL, STOP, TERM, USR1), or `hang` or `none`. Each rank writes the examples of each step that it
begins to JOURNAL-rankR.jsonl. Resumes by itself, as under a supervisor.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from lope_dist.config.load import load_config
from lope_dist.core.errors import LopeError, Preempted
from lope_dist.engine import local, zero
from lope_dist.model import stream
from lope_dist.train import session
from lope_dist.train.checkpoint import folder as checkpoint
from lope_dist.train.checkpoint import history
from lope_dist.train.run import setup
from lope_dist.train.stage import loop, stage, validate

_EXTEND = "--extend="

recipe, journal, victim, moment, nth, harm, *rest = sys.argv[1:]
overrides = [each for each in rest if not each.startswith(_EXTEND)]
extend = next((each.removeprefix(_EXTEND) for each in rest if each.startswith(_EXTEND)), None)
own_rank = os.environ.get("RANK", "0")
num_calls = [0]


def strike() -> None:
    """Do the harm, if this is the moment."""
    num_calls[0] += 1
    if own_rank != victim or num_calls[0] != int(nth) or harm == "none":
        return
    print(f"struck at {moment}", flush=True)
    if harm == "hang":
        time.sleep(10_000)
    os.kill(os.getpid(), getattr(signal, f"SIG{harm}"))


def at(owner: object, name: str, *, after: bool = False, when=lambda *a, **k: True) -> None:
    """Let `strike` come before, or after, each call of a function."""
    real = getattr(owner, name)

    def wrapped(*arguments, **settings):
        if not after and when(*arguments, **settings):
            strike()
        result = real(*arguments, **settings)
        if after and when(*arguments, **settings):
            strike()
        return result

    setattr(owner, name, wrapped)


def written(function: str, name: str) -> None:
    """Let `strike` come after a file of a checkpoint is written."""

    def is_it(*arguments, **_) -> bool:
        return any(isinstance(a, Path) and a.name == name for a in arguments)

    at(checkpoint, function, after=True, when=is_it)


def is_pruned(path, **_) -> bool:
    return str(path).endswith(".old")


ENGINES = (zero.ZeroEngine, local.LocalEngine)
MOMENTS = {
    "start": lambda: at(session, "start_world", after=True),
    "load": lambda: at(stream._Loader, "_quantize"),
    "install": lambda: at(session, "install_checkpoint"),
    "optimizer load": lambda: [at(engine, "load_optimizer_state") for engine in ENGINES],
    "batch": lambda: at(setup.StageLoader, "micro_batches"),
    "forward": lambda: at(loop, "_micro_step"),
    "backward": lambda: [at(engine, "backward", after=True) for engine in ENGINES],
    "step": lambda: [at(engine, "step") for engine in ENGINES],
    "stepped": lambda: [at(engine, "step", after=True) for engine in ENGINES],
    "between": lambda: at(stage.MetricsLog, "step", after=True),
    "gather": lambda: [at(engine, "optimizer_state", after=True) for engine in ENGINES],
    "weights written": lambda: written("save_file", checkpoint.WEIGHTS),
    "optimizer written": lambda: written("save_file", checkpoint.OPTIMIZER),
    "state written": lambda: written("write_json", checkpoint.STATE),
    "sealed": lambda: at(checkpoint, "seal", after=True),
    "published": lambda: at(checkpoint, "publish", after=True),
    "prune": lambda: at(history.shutil, "rmtree", when=is_pruned),
    "stage end": lambda: at(stage, "write_run_files"),
    "stage switch": lambda: at(stage, "set_trainable"),
    "validation": lambda: at(validate, "token_losses"),
    "engine made": lambda: at(stage, "stage_engine", after=True),
}


def keep_journal() -> None:
    """Write down which examples each step of each stage has on this rank."""
    real_run, real_plans, name = stage.run_stage, loop._plans, [""]

    def run_stage(session, parts, *arguments):
        name[0] = parts.log._stage
        return real_run(session, parts, *arguments)

    def plans(*arguments):
        for step, plan in real_plans(*arguments):
            ids = [i for batch in plan.batches for i in batch.example_ids]
            with Path(f"{journal}-rank{own_rank}.jsonl").open("a") as file:
                file.write(json.dumps({"stage": name[0], "step": step, "ids": ids}) + "\n")
            yield step, plan

    stage.run_stage, loop._plans = run_stage, plans


if __name__ == "__main__":
    if moment != "-":
        MOMENTS[moment]()
    keep_journal()
    try:
        session.train(load_config(recipe, overrides), resume="auto", extend=extend)
    except Preempted as stop:
        print(stop, flush=True)
        sys.exit(stop.status)
    except LopeError as error:
        print(f"error: {error}", flush=True)
        sys.exit(error.status)
