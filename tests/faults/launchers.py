"""Launch the harness on hosts as a user does, wait within a limit, and read what came of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from faults.hosts import INTERFACE, Hosts, hosts
from faults.waits import LIMIT_S
from support.launching import REPOSITORY
from support.tiny import save_alpaca, save_tiny_llama, tiny_tree

from lope_dist.core.locks import file_lock

BIN = Path(sys.executable).parent
PORT = "29600"
"""Hosts are made afresh for each case, and so their ports are free."""


def material(folder: Path) -> tuple[Path, Path]:
    """Return the model and the rows that all cases share, made once."""
    shared = folder.parent / "material"
    with file_lock(Path(f"{shared}.lock")):
        if not (shared / "rows.jsonl").exists():
            save_tiny_llama(shared / "model")
            save_alpaca(shared / "rows.jsonl", 2400)
    return shared / "model", shared / "rows.jsonl"


def recipe(
    folder: Path, *, steps: int, run: str = "run", kind: str = "deepspeed", **engine: Any
) -> Path:
    """Write the recipe of a run of so many steps in each of two stages."""
    model, rows = material(folder)
    tree = tiny_tree(model, rows, folder / run)
    for stage in tree["train"]["stages"].values():
        stage["max_steps"] = steps
    tree["engine"] = {"kind": kind, "timeout_s": 60} | engine
    path = folder / f"{run}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def variables(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of every rank."""
    paths = f"{REPOSITORY}:{REPOSITORY / 'tests'}"
    base = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return base | {"PYTHONPATH": paths} | dict(more or {})


@dataclass
class Launch:
    """A launcher that runs on one host."""

    process: subprocess.Popen[str]
    log: Path

    @property
    def output(self) -> str:
        """What was printed so far."""
        return self.log.read_text(errors="replace")


def by_no_ssh(
    group: Hosts, command: Sequence[str], tag: str = "no_ssh", *, first: int = 0, slots: int = 1
) -> list[Launch]:
    """Start `deepspeed --no_ssh` once on each host from the ``first`` on, ``slots`` ranks each."""
    hostfile = group.hostfile(slots)
    launches = []
    for rank, host in list(enumerate(group))[first:]:
        own = [str(BIN / "deepspeed"), "--hostfile", str(hostfile), "--no_ssh"]
        own += ["--node_rank", str(rank), "--master_addr", group[0].address]
        own += ["--master_port", PORT, "--no_local_rank"]
        launches.append(start(group, rank, [*own, *command], f"{tag}-{host.name}"))
    return launches


def by_torchrun(group: Hosts, command: Sequence[str], tag: str = "torchrun") -> list[Launch]:
    """Start `torchrun` once on each host."""
    launches = []
    for rank, host in enumerate(group):
        own = [str(BIN / "torchrun"), "--nnodes", str(len(group.all)), "--nproc_per_node", "1"]
        own += ["--node_rank", str(rank), "--master_addr", group[0].address]
        own += ["--master_port", PORT, "--max-restarts", "0"]
        launches.append(start(group, rank, [*own, *command], f"{tag}-{host.name}"))
    return launches


def by_ssh(group: Hosts, command: Sequence[str], tag: str = "ssh") -> list[Launch]:
    """Start `deepspeed --hostfile` on the first host; it reaches the others by pdsh and ssh."""
    lines = [f"{key}={value}" for key, value in variables().items() if key != "PYTHONPATH"]
    environment_file = group.folder / "deepspeed_env"
    environment_file.write_text("\n".join(lines))
    own = [str(BIN / "deepspeed"), "--hostfile", str(group.hostfile())]
    own += ["--master_addr", group[0].address, "--master_port", PORT, "--no_local_rank"]
    more = {"DS_ENV_FILE": str(environment_file)}
    return [start(group, 0, [*own, *command], tag, more)]


def start(
    group: Hosts,
    rank: int,
    command: Sequence[str],
    tag: str,
    more: Mapping[str, str] | None = None,
) -> Launch:
    """Start a command on a host from the repository's folder."""
    log = group.folder / f"{tag}.log"
    environment = variables(group.environment() | dict(more or {}))
    process = group[rank].start(command, log, environment=environment, folder=REPOSITORY)
    return Launch(process, log)


def training(recipe: Path, *more: str) -> list[str]:
    """Return the command of a training rank, over the hosts' interface."""
    return ["launch/train.py", "--config", str(recipe), f"engine.interface={INTERFACE}", *more]


def alone_on_one_host(folder: Path, steps: int) -> Path:
    """Return a run of so many steps a stage that nothing disturbed, made once for all cases."""
    name = f"alone-{steps}"
    shared = folder.parent / name
    with file_lock(Path(f"{shared}.lock")):
        if not shared.exists():
            with hosts(1, folder / "one") as one:
                path = recipe(folder, steps=steps, run=name)
                succeed(by_torchrun(one, training(path)))
            (folder / name).rename(shared)
    return shared


def wait(launches: Sequence[Launch]) -> list[int]:
    """Wait for all and return their statuses.

    Raises:
        AssertionError: not all ended in time; the message has what they printed.
    """
    deadline = time.monotonic() + LIMIT_S
    for launch in launches:
        try:
            launch.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {LIMIT_S} s:\n{tails(launches)}") from None
    return [launch.process.returncode for launch in launches]


def succeed(launches: Sequence[Launch]) -> None:
    """Assert that all end well in time."""
    statuses = wait(launches)
    assert not any(statuses), f"statuses {statuses}:\n{tails(launches)}"


def tails(launches: Sequence[Launch]) -> str:
    """Return the ends of what was printed."""
    return "\n".join(f"--- {launch.log.name}\n{launch.output[-3000:]}" for launch in launches)


def steps_of(run: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a run's metrics."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n")]


def until(done: Callable[[], Any], launches: Sequence[Launch] = ()) -> Any:
    """Wait for something to come true and return it."""
    deadline = time.monotonic() + LIMIT_S
    while not (value := done()):
        assert time.monotonic() < deadline, f"not within {LIMIT_S} s:\n{tails(launches)}"
        time.sleep(0.05)
    return value


def workers(group: Hosts, index: int) -> list[int]:
    """Return the training processes of a host, not its launchers."""
    script = "-u launch/"
    found = group[index].pids().items()
    return [
        p for p, c in found if script in c and "deepspeed.launcher" not in c and "sh -c" not in c
    ]


def assert_same_losses(runs: Sequence[Path], tolerance: float = 1e-4) -> float:
    """Assert that runs have equal losses step by step; return the largest relative difference."""
    first, *others = [
        {(line["stage"], line["step"]): line["loss"] for line in steps_of(run)} for run in runs
    ]
    assert first
    worst = 0.0
    for other in others:
        assert other.keys() == first.keys()
        worst = max(worst, *(abs(other[k] - first[k]) / abs(first[k]) for k in first))
    assert worst <= tolerance, f"losses differ by {worst:.2e} (relative)"
    return worst


def kill(pids: Sequence[int], number: int = signal.SIGKILL) -> None:
    """Send a signal to processes of a host, numbers seen from the machine."""
    assert pids
    for pid in pids:
        os.kill(pid, number)
