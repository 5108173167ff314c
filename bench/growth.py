"""How cost grows: seconds and peak memory of a step against everything that can be turned up.

Random NF4 weights, one process; ranks are processes of one thread each. The last line is one
JSON object; `figures` has a table a quantity, with the slope of log time over log quantity
(1: in proportion, 0: no cost).

Run: python bench/growth.py [--sizes smollm2-135m,tinyllama-1.1b] [--no-ranks]
"""

from __future__ import annotations

import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import command, finish
from process_memory import Peak, now
from random_nf4 import SHAPES, linear_parameters
from random_step import LopeStep, packed_positions, random_ids

from lope_dist.config.adapter import AdapterConfig

CPU = torch.device("cpu")
SIZES = ("smollm2-135m", "tinyllama-1.1b", "llama2-7b")
MIB = 1 << 20


def measure(shape: str, length: int, steps: int = 2, **adapter: Any) -> dict[str, float]:
    """Return seconds a step, tokens/s and peak memory above the bare process, load included."""
    gc.collect()
    with Peak(now()) as peak:
        trainer = LopeStep(shape, CPU, AdapterConfig.model_validate(adapter))
        step = trainer.train(
            random_ids(1, length, SHAPES[shape]["vocab_size"]), packed_positions(1, length)
        )
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
    seconds = min(times)
    return {
        "step_s": round(seconds, 3),
        "tokens_per_s": round(length / seconds, 1),
        "peak_mib": round(peak.anon / MIB, 1),
    }


def table(quantity: str, rows: dict[float, dict[str, float]]) -> dict[str, Any]:
    """Return rows and slopes of one quantity."""
    slopes = {}
    for key in ("step_s", "peak_mib"):
        x = np.log([float(value) for value in rows])
        y = np.log([max(row[key], 1e-9) for row in rows.values() if key in row])
        if len(x) == len(y) > 1:
            slopes[key] = round(float(np.polyfit(x, y, 1)[0]), 3)
    return {
        "rows": [{quantity: value, **row} for value, row in rows.items()],
        "slopes": slopes,
    }


def main() -> None:
    """Print the tables."""
    parser = command(__doc__)
    parser.add_argument("--shape", default=SIZES[0], help="for all but the model's size")
    parser.add_argument("--sizes", default=",".join(SIZES), help="the last one takes 5 GB")
    parser.add_argument("--no-ranks", action="store_true")
    arguments = parser.parse_args()
    shape, sizes = arguments.shape, arguments.sizes.split(",")
    lengths, ranks, experts = (64, 128, 256, 512), (2, 8, 32), (2, 4, 8)
    figures = {
        "length": table("length", {n: measure(shape, n) for n in lengths}),
        "rank": table("rank", {r: measure(shape, 128, rank=r) for r in ranks}),
        "experts": table("experts", {n: measure(shape, 128, num_normal=n - 1) for n in experts}),
    }
    models = {linear_parameters(s) / 1e9: measure(s, 32, steps=1 + (s == shape)) for s in sizes}
    figures["model"] = table("billion_weights", models)
    if not arguments.no_ranks:
        from step import LONG, MODEL, launch
        from trainer import write_rows

        with tempfile.TemporaryDirectory() as temporary:
            data = write_rows(Path(temporary) / "rows.jsonl", LONG)
            found = {n: launch(n, MODEL, data, Path(temporary), 2) for n in (1, 2)}
        rows = {
            float(n): {
                "step_s": round(max(rank["step_s"] for rank in facts), 3),
                "tokens_per_s": round(4 * 256 * n / max(rank["step_s"] for rank in facts), 1),
                "peak_mib": round(max(rank["peak_mib"] for rank in facts), 1),
            }
            for n, facts in found.items()
        }
        figures["ranks"] = table("ranks", rows)
    slopes = {f"slope_{name}": t["slopes"].get("step_s", 0.0) for name, t in figures.items()}
    finish("growth", slopes, {}, figures, vars(arguments))


if __name__ == "__main__":
    main()
