"""One rank of `step.py`: `step_rank.py MODEL DATA OUT STEPS`, started once a rank.

Every collective of DeepSpeed's is waited for where it is started, and timed. Its time has the
wait for the other rank in it; nothing overlaps, so the split adds up.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from process_memory import Peak, now

_KINDS = {"gather": ("all_gather", "broadcast"), "reduce": ("reduce", "all_reduce")}


def time_collectives(spent: dict[str, float]) -> None:
    """Wrap the collectives of DeepSpeed's backend; add their seconds to ``spent``."""
    from deepspeed.comm import comm

    backend: Any = comm.cdb
    for name in dir(backend):
        kind = next((k for k, starts in _KINDS.items() if name.startswith(starts)), None)
        if kind is None or name.endswith("_function") or not callable(getattr(backend, name)):
            continue
        setattr(backend, name, _timed(getattr(backend, name), kind, spent))


def _timed(function: Callable[..., Any], kind: str, spent: dict[str, float]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if spent["depth"]:  # one backend method may call another
            return function(*args, **kwargs)
        spent["depth"] = 1
        start = time.perf_counter()
        try:
            handle = function(*args, **kwargs)
            if hasattr(handle, "wait"):
                handle.wait()
        finally:
            spent["depth"] = 0
            spent[kind] += time.perf_counter() - start
        return handle

    return call


def main() -> None:
    """Measure one rank."""
    model, data, out, steps = sys.argv[1:]
    from trainer import Trainer, build_config

    from lope_dist.engine.world import start_world

    torch.set_num_threads(1)
    ranks = int(os.environ["WORLD_SIZE"])
    engine = {"kind": "local"} if ranks == 1 else {"kind": "deepspeed", "zero_stage": 3}
    rows = {"global_batch": 4 * ranks, "micro_batch": 4}
    config = build_config(model, Path(data), engine=engine, train=rows)
    world = start_world(config.engine)
    with Peak(now()) as peak:
        facts = measure(Trainer(config, world), int(steps), is_sharded=ranks > 1)
    Path(out).write_text(json.dumps(facts | {"peak_mib": peak.anon / (1 << 20)}))
    world.close()


def measure(trainer: Any, steps: int, is_sharded: bool) -> dict[str, float]:
    """Return the seconds of a step and of its collectives."""
    spent = {"gather": 0.0, "reduce": 0.0, "depth": 0.0}
    if is_sharded:
        time_collectives(spent)
    trainer.run(1)
    spent.update(gather=0.0, reduce=0.0)
    start = time.perf_counter()
    trainer.run(steps)
    seconds = time.perf_counter() - start
    return {
        "step_s": seconds / steps,
        "gather_s": spent["gather"] / steps,
        "reduce_s": spent["reduce"] / steps,
    }


if __name__ == "__main__":
    main()
