"""What every benchmark prints, and how two things are timed against each other."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(os.environ.get("BENCH_RESULTS") or Path(__file__).resolve().parent / "results")
_PACKAGES = ("torch", "transformers", "peft", "deepspeed", "bitsandbytes", "lm_eval")


def command(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser that describes itself by the first line of a script's text."""
    return argparse.ArgumentParser(description=(doc or "").partition("\n")[0])


def in_turn(
    steps: Mapping[str, Callable[[], Any]],
    repeats: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each, run in turn, so that drift of the machine hits all alike.

    Who goes first changes with each turn, for what runs later finds warm caches. ``clock``:
    `time.process_time` where the work is this process's own, and others may be busy too.
    """
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats + warmup):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            steps[name]()
            if turn >= warmup:
                times[name].append(clock() - start)
    return times


def median_ratio(upper: list[float], lower: list[float]) -> float:
    """Return the median of the ratios of runs that stood beside each other."""
    return statistics.median(a / b for a, b in zip(upper, lower, strict=True))


def machine() -> dict[str, Any]:
    """Return date, hardware and versions."""
    import torch

    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "gpu": gpu,
        "load_at_end": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
    }


def write(
    name: str,
    ratios: Mapping[str, float],
    targets: Mapping[str, str],
    figures: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """Write `results/NAME.json` and return what is in it.

    ``targets`` has, for some of the ratios, `<= 1.05` or `>= 1`. Of paths among ``arguments`` the
    last part is written.
    """
    result = {
        "name": name,
        "ratios": {key: round(value, 4) for key, value in sorted(ratios.items())},
        "targets": dict(targets),
        "figures": figures,
        "args": {
            key: value.name if isinstance(value, Path) else value
            for key, value in arguments.items()
        },
        "machine": machine(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def finish(
    name: str,
    ratios: Mapping[str, float],
    targets: Mapping[str, str],
    figures: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> None:
    """Write what `write` does, and print the same as the last line."""
    print(json.dumps(write(name, ratios, targets, figures, arguments)))
