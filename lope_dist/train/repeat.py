"""Train the first steps of a run again, elsewhere, and hold every loss against the recorded one.

Each stage is a training run of its own in a temporary folder, resumed behind the recorded
checkpoint of the stage before it, and ended after the steps asked for: the schedule of its
learning rate is that of the whole stage.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lope_dist.config.load import dump_config
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic
from lope_dist.core.scratch import scratch_folder
from lope_dist.core.side_files import MANIFEST, METRICS
from lope_dist.core.versions import code_version, package_versions
from lope_dist.train.checkpoint.folder import CONFIG
from lope_dist.train.checkpoint.initial import InitialAdapter
from lope_dist.train.checkpoint.recorded import load_recorded

TOLERANCE = 1e-4
"""Relative difference of a loss that another world size or other versions may cause."""
_POLL_S = 0.2


@dataclass
class Repeat:
    """What a repeat came to."""

    exact: bool
    """Whether losses must be equal to the last bit: on CPUs, with the same code, versions, engine
    and ranks. A GPU adds up a backward pass in any order."""
    differs_in: list[str]
    """What is not as it was."""
    num_compared: dict[str, int] = field(default_factory=dict)
    worst: float = 0.0
    """Largest relative difference of a loss."""
    where: str = ""
    """Stage and step of it."""

    @property
    def ok(self) -> bool:
        """Whether every loss is the recorded one, as exactly as can be asked."""
        return self.worst <= (0.0 if self.exact else TOLERANCE)


def repeat(run_dir: Path, num_steps: int, num_ranks: int | None, timeout_s: float) -> Repeat:
    """Train ``num_steps`` of each stage again and compare; default ranks: as many as recorded.

    Raises:
        LopeError: not a run with a manifest, nothing to compare, or the repeat failed.
    """
    manifest = MANIFEST.read(run_dir)
    if manifest is None or not manifest["starts"]:
        raise LopeError(
            f"'{run_dir}' has no {MANIFEST.name}: it is not a run, or an old version wrote it."
        )
    config = begun_alike(load_recorded(run_dir / CONFIG), manifest["starts"])
    ranks = num_ranks or len(manifest["starts"][-1]["ranks"])
    differs = _differences(manifest["starts"], ranks)
    result = Repeat(not differs and _device_here() == "cpu", differs)
    recorded, extended = _losses(run_dir), _first_extensions(manifest["starts"])
    with scratch_folder("lope-repro-") as temporary:
        for index, stage in enumerate(config.train.stages, start=1):
            end = min(num_steps, extended.get(stage, {"after": num_steps})["after"])
            expected = {k: v for k, v in recorded.items() if k[0] == stage and k[1] < end}
            if not expected:
                continue
            folder = temporary / stage
            _prepare(run_dir, folder, config, index)
            _train(folder, ranks, set(expected), timeout_s)
            _compare(result, stage, expected, _losses(folder))
    if not result.num_compared:
        raise LopeError(f"'{run_dir}' has no losses to compare: {METRICS.name} is empty.")
    return result


def begun_alike(config: RunConfig, starts: Sequence[dict[str, Any]]) -> RunConfig:
    """Return the configuration that the run began with.

    That is with the very checkpoint that `adapter.init_from` gave it, and stages as long as they
    were before they were extended.

    Raises:
        LopeError: that adapter is not there any more.
    """
    stages = dict(config.train.stages)
    for name, extension in _first_extensions(starts).items():
        lengths = {key: extension[key][0] for key in ("epochs", "max_steps") if key in extension}
        stages[name] = stages[name].model_copy(update=lengths)
    train = config.train.model_copy(update={"stages": stages})
    config = config.model_copy(update={"train": train})
    recorded_initial = next((start["init_from"] for start in starts if "init_from" in start), None)
    if recorded_initial is None:
        return config
    initial = InitialAdapter(**recorded_initial)
    folder = Path(initial.checkpoint)
    if reason := initial.defect():
        raise LopeError(f"{folder}, which the run began with, cannot be read again: {reason}.")
    changes = {"init_from": str(folder.parents[1]), "init_checkpoint": folder.name}
    adapter = config.adapter.model_copy(update=changes)
    return config.model_copy(update={"adapter": adapter})


def _first_extensions(starts: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return by stage what the manifest says of its first `--extend`."""
    extensions = [start["extended"] for start in reversed(starts) if "extended" in start]
    return {extension["stage"]: extension for extension in extensions}


def _differences(starts: Sequence[dict[str, Any]], ranks: int) -> list[str]:
    """Return what of code, packages and ranks is not as in every start of the run."""
    now = {f"package {name}": number for name, number in package_versions().items()}
    now |= {"code": code_version()["source"], "ranks": str(ranks)}
    differences: dict[str, None] = {}
    for start in starts:
        then = {f"package {name}": number for name, number in start["packages"].items()}
        then |= {"code": start["code"]["source"], "ranks": str(len(start["ranks"]))}
        then |= {"device": _kind(start["ranks"][0]["device"])}
        for key, value in (now | {"device": _device_here()}).items():
            if then.get(key, value) != value:  # an older start may not have noted a package
                differences[f"{key}: {then[key]} -> {value}"] = None
    return list(differences)


def _kind(device: str) -> str:
    """Return the device without its number: `cuda:1 (H100)` is a `cuda (H100)`."""
    name, _, model = device.partition(" ")
    return f"{name.partition(':')[0]} {model}".strip()


def _device_here() -> str:
    import torch

    return f"cuda ({torch.cuda.get_device_name(0)})" if torch.cuda.is_available() else "cpu"


def _losses(run_dir: Path) -> dict[tuple[str, int], float]:
    return {(line["stage"], line["step"]): line["loss"] for line in METRICS.read(run_dir)}


def _prepare(run_dir: Path, folder: Path, config: RunConfig, index: int) -> None:
    """Write a run folder that stands at the beginning of the stage at ``index``, from 1."""
    there = config.model_copy(
        update={
            "output_dir": str(folder),
            # All ranks are on this host, which need not have the recorded hosts' interface.
            "engine": config.engine.model_copy(update={"interface": None}),
            "train": config.train.model_copy(update={"log_every_steps": 1, "trackers": ()}),
        }
    )
    write_atomic(folder / CONFIG, dump_config(there))
    if index > 1:
        before = list(config.train.stages)[index - 2]
        source = run_dir / "checkpoints" / f"{index - 1}-{before}"
        if not source.is_dir():
            raise LopeError(f"'{source}' is absent: stage {index} cannot be repeated from it.")
        shutil.copytree(source, folder / "checkpoints" / source.name)


def _train(folder: Path, ranks: int, expected: set[tuple[str, int]], timeout_s: float) -> None:
    """Run the stage until its wanted losses are written, then end it."""
    command = ["-m", "lope_dist.train.rank", str(folder / CONFIG)]
    if ranks > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
        command = [*launcher, *command]
    log = folder / "output.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    deadline = time.monotonic() + timeout_s
    try:
        while process.poll() is None and not expected <= _losses(folder).keys():
            if time.monotonic() > deadline:
                raise LopeError(f"The repeat was not done within {timeout_s:.0f} s.")
            time.sleep(_POLL_S)
    finally:
        _end(process)
    if not expected <= _losses(folder).keys():
        lines = [text for text in log.read_text().splitlines() if text.startswith("error")]
        raise LopeError(f"The repeat failed: {lines[0] if lines else log.read_text()[-500:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    import psutil

    try:
        family = [*psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    for child in family:
        if child.is_running():
            child.kill()
    process.wait()


def _compare(
    result: Repeat,
    stage: str,
    expected: dict[tuple[str, int], float],
    losses: dict[tuple[str, int], float],
) -> None:
    result.num_compared[stage] = len(expected)
    for key, loss in expected.items():
        difference = abs(losses[key] - loss) / max(abs(loss), 1e-12)
        if difference > result.worst:
            result.worst, result.where = difference, f"stage {key[0]}, step {key[1]}"
