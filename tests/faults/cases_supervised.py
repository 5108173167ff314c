"""A launch that goes on by itself, also in the places of Slurm and Kubernetes."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from faults.base import case
from faults.hosts import INTERFACE, Hosts, hosts
from faults.launchers import (
    PORT,
    Launch,
    alone_on_one_host,
    assert_same_losses,
    kill,
    recipe,
    start,
    steps_of,
    succeed,
    tails,
    training,
    until,
    wait,
    workers,
)
from support.launching import REPOSITORY

SUPERVISED = "Going on by itself"
STEPS = 40
TIMEOUT_S = 20
SUPERVISE = [sys.executable, "launch/supervise.py", "--wait", "1", "--"]


def _by_script(
    group: Hosts, script: str, command: list[str], per_host: list[dict[str, str]]
) -> list[Launch]:
    """Run a launch script once on each host."""
    return [
        start(group, i, [str(REPOSITORY / "launch" / script), *command], f"{script}-{i}", own)
        for i, own in enumerate(per_host)
    ]


@case(
    "a rank is killed under the supervisor",
    group=SUPERVISED,
    states="`kill -9` in Stage II on one of two hosts; both start again, and every loss is that "
    "of an undisturbed run.",
)
def _supervised(folder: Path) -> dict[str, Any]:
    alone = alone_on_one_host(folder, STEPS)
    with hosts(2, folder / "hosts") as group:
        path = recipe(folder, steps=STEPS, run="disturbed", timeout_s=TIMEOUT_S)
        variables = [
            {"NUM_NODES": "2", "NODE_RANK": str(i), "RANKS_PER_NODE": "1"}
            | {"MASTER_ADDR": group[0].address, "MASTER_PORT": PORT}
            for i in range(2)
        ]
        launches = _by_script(group, "torchrun.sh", training(path), variables)
        run = folder / "disturbed"
        until(lambda: any(s["stage"] == "finetune" for s in steps_of(run)), launches)
        kill(workers(group, 1))
        begin = time.monotonic()
        succeed(launches)
        seconds = time.monotonic() - begin
        assert all("restart 1 of 10" in launch.output for launch in launches), tails(launches)
        assert not any(host.pids() for host in group)
    worst = assert_same_losses([alone, run])
    return {"from kill to end (s)": round(seconds, 1), "loss difference": f"{worst:.1e}"}


@case(
    "a mistake under the supervisor",
    group=SUPERVISED,
    states="A misspelt key ends the launch with status 2 and is not tried again.",
)
def _mistake(folder: Path) -> dict[str, Any]:
    with hosts(1, folder / "hosts") as group:
        variables = [
            {"NUM_NODES": "1", "NODE_RANK": "0", "RANKS_PER_NODE": "1", "MASTER_ADDR": "127.0.0.1"}
        ]
        command = training(recipe(folder, steps=2), "adapter.rnk=4")
        launches = _by_script(group, "torchrun.sh", command, variables)
        begin = time.monotonic()
        assert wait(launches) == [2], tails(launches)
        assert "no restart, for it would end the same way" in launches[0].output
        assert "Did you mean 'rank'" in launches[0].output
    return {"ends after (s)": round(time.monotonic() - begin, 1)}


@case(
    "the supervisor gets SIGTERM",
    group=SUPERVISED,
    states="A stopped job leaves no process, within the grace, and is not started again.",
)
def _stopped(folder: Path) -> dict[str, Any]:
    with hosts(1, folder / "hosts") as group:
        command = ["torchrun", "--nproc_per_node", "2", "--master_port", PORT]
        path = recipe(folder, steps=400, timeout_s=TIMEOUT_S)
        full = [*SUPERVISE, *command, *training(path)]
        launch = start(group, 0, full, "supervised")
        until(lambda: len(steps_of(folder / "run")) >= 3, [launch])
        # Its guardian, which it forks, comes later.
        supervisor = min(p for p, c in group[0].pids().items() if "supervise.py" in c)
        begin = time.monotonic()
        os.kill(supervisor, signal.SIGTERM)
        (status,) = wait([launch])
        seconds = time.monotonic() - begin
        assert status != 0
        assert "restart" not in launch.output
        assert not group[0].pids()
    return {"ends after (s)": round(seconds, 1), "status": status}


@case(
    "Slurm's variables on two hosts",
    group=SUPERVISED,
    states="What the Slurm script runs on each node trains with SLURM_NNODES and SLURM_NODEID.",
)
def _slurm(folder: Path) -> dict[str, Any]:
    with hosts(2, folder / "hosts") as group:
        own = {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_ID": "77"}
        own |= {"MASTER_ADDR": group[0].name, "MASTER_PORT": PORT}
        variables = [own | {"SLURM_NODEID": str(i)} for i in range(2)]
        launches = _by_script(group, "torchrun.sh", training(recipe(folder, steps=4)), variables)
        succeed(launches)
    start_of = json.loads((folder / "run" / "manifest.json").read_text())["starts"][0]
    assert [rank["host"] for rank in start_of["ranks"]] == [host.name for host in group]
    assert start_of["environment"]["SLURM_JOB_ID"] == "77"
    return {"ranks": len(start_of["ranks"])}


@case(
    "the Kubernetes job's command on two hosts",
    group=SUPERVISED,
    states="Command, arguments and variables of the manifest, with JOB_COMPLETION_INDEX, train.",
)
def _kubernetes(folder: Path) -> dict[str, Any]:
    _, job = yaml.safe_load_all((REPOSITORY / "launch" / "kubernetes.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    with hosts(2, folder / "hosts") as group:
        own = {entry["name"]: entry["value"] for entry in container["env"]}
        # The first pod has another name here, and there is no device to count.
        own |= {"MASTER_ADDR": group[0].name, "RANKS_PER_NODE": "1"}
        own["HF_HOME"] = str(folder / "huggingface")
        path = recipe(folder, steps=4)
        changed = {"/recipe/recipe.yaml": str(path)}
        arguments = [changed.get(a, a) for a in container["args"]]
        arguments = [
            f"output_dir={folder / 'run'}" if a.startswith("output_dir=") else a for a in arguments
        ]
        arguments.insert(3, f"engine.interface={INTERFACE}")
        script = Path(container["command"][0]).name
        variables = [own | {"JOB_COMPLETION_INDEX": str(i)} for i in range(2)]
        succeed(_by_script(group, script, arguments, variables))
        assert len(steps_of(folder / "run")) == 8
    return {"steps": 8}
