"""What goes on by itself, what is checked before, and that scores do not depend on the ranks."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from faults.base import case
from faults.hosts import INTERFACE, Host, Hosts, hosts, require
from faults.launchers import (
    PORT,
    Launch,
    alone_on_one_host,
    assert_same_losses,
    by_torchrun,
    kill,
    material,
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

SUPERVISED, CHECKED, SCORES = "Going on by itself", "Checked before a launch", "Scores"
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
        until(lambda: any(s["stage"] == "finetune" for s in steps_of(run)), 200, launches)
        kill(workers(group, 1))
        begin = time.monotonic()
        succeed(launches, 300)
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
        assert wait(launches, 90) == [2], tails(launches)
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
        until(lambda: len(steps_of(folder / "run")) >= 3, 150, [launch])
        (supervisor,) = [p for p, c in group[0].pids().items() if "supervise.py" in c]
        begin = time.monotonic()
        os.kill(supervisor, signal.SIGTERM)
        (status,) = wait([launch], 90)
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
        succeed(launches, 200)
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
        succeed(_by_script(group, script, arguments, variables), 200)
        assert len(steps_of(folder / "run")) == 8
    return {"steps": 8}


TASK = """
task: bytes_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {data}}}}}
output_type: {kind}
test_split: test
fewshot_split: train
num_fewshot: 2
doc_to_text: "Q: {{{{question}}}} A:"
{rest}
"""


def _tasks(folder: Path) -> Path:
    """Write a multiple-choice and a generation task of 23 documents, with drawn few-shots."""
    rows = [
        {"question": f"{i} plus {i % 5}", "answers": ["yes", "no", f"it is {i}"], "gold": i % 3}
        for i in range(23)
    ]
    tasks = folder / "tasks"
    tasks.mkdir()
    data = tasks / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    choice = "doc_to_choice: answers\ndoc_to_target: gold\nmetric_list: [{metric: acc}]"
    answer = (
        'doc_to_target: "{{answers[2]}}"\nmetric_list: [{metric: exact_match}, {metric: ter}]\n'
        "generation_kwargs: {max_gen_toks: 8, until: [x]}"
    )
    for name, kind, rest in (
        ("choice", "multiple_choice", choice),
        ("answer", "generate_until", answer),
    ):
        text = TASK.format(name=name, kind=kind, data=data, rest=rest)
        (tasks / f"{name}.yaml").write_text(text)
    return tasks


@case(
    "scores on two hosts equal one process'",
    group=SCORES,
    states="`launch/eval.py` on 2 hosts gives every score and standard error of `lope eval`, to "
    "the last digit: choices and generation, few-shot, 23 documents.",
    in_ci=True,
)
def _scores(folder: Path) -> dict[str, Any]:
    tasks = _tasks(folder)
    with hosts(1, folder / "one") as one:
        succeed([start(one, 0, [sys.executable, *training(recipe(folder, steps=3))], "train")], 150)
        lope = [sys.executable, "-c", "from lope_dist.cli import main; main()"]
        options = ["--tasks", "bytes_choice,bytes_answer", "--experts", "masked,none"]
        options += ["--include-path", str(tasks), "--batch-size", "1"]
        single = start(one, 0, [*lope, "eval", str(folder / "run"), *options], "single")
        succeed([single], 150)
    results = folder / "run" / "results.json"
    alone = json.loads(results.read_text())
    results.unlink()
    with hosts(2, folder / "hosts") as group:
        command = ["launch/eval.py", "--run", str(folder / "run"), *options]
        begin = time.monotonic()
        launches = by_torchrun(group, [*command, "--interface", INTERFACE])
        succeed(launches, 200)
        seconds = time.monotonic() - begin
    assert json.loads(results.read_text()) == alone
    assert {row["name"] for row in alone["rows"]} == {"base", "lope_masked"}
    for row in alone["rows"]:
        assert row["tasks"]["bytes_choice"]["acc_stderr"] > 0
        assert "ter" in row["tasks"]["bytes_answer"]
    return {"two hosts (s)": round(seconds, 1)}


def _doctor(group: Hosts, *options: str, host: int = 0) -> tuple[int, dict[str, Any], str]:
    """Run `lope doctor --json` on a host; return status, findings and what else was printed."""
    code = "from lope_dist.cli import main; main()"
    launch = start(
        group, host, [sys.executable, "-c", code, "doctor", *options, "--json"], "doctor"
    )
    (status,) = wait([launch], 200)
    output = launch.output
    body = re.search(r"^\{\n.*^\}$", output, re.MULTILINE | re.DOTALL)
    assert body, output[-3000:]
    return status, json.loads(body.group(0)), output


def _problems(found: dict[str, Any]) -> str:
    return "\n".join(
        f"{f['check']}: {f['detail']} -> {f['fix']}" for f in found["findings"] if not f["ok"]
    )


@case(
    "lope doctor on two good hosts",
    group=CHECKED,
    states="All checks pass over ssh, a timed all-reduce among them.",
)
def _doctor_good(folder: Path) -> dict[str, Any]:
    require("sshd")
    with hosts(2, folder / "hosts", ssh=True) as group:
        path = recipe(folder, steps=2, interface=INTERFACE)
        begin = time.monotonic()
        status, found, output = _doctor(group, str(path), "--hostfile", str(group.hostfile()))
        seconds = time.monotonic() - begin
        assert (status, _problems(found)) == (0, ""), output
        (ring,) = [f for f in found["findings"] if f["check"].startswith("all-reduce")]
        assert "gloo over eth0: 4 MiB in" in ring["detail"], ring
        assert not any(host.pids() for host in group)
    return {"seconds": round(seconds, 1), "checks": len(found["findings"])}


@case(
    "lope doctor finds other data, a lost folder and another name",
    group=CHECKED,
    states="The second host has other rows at the same path, no shared output folder and does "
    "not resolve its own name: three problems, each with its fix.",
)
def _doctor_files(folder: Path) -> dict[str, Any]:
    require("sshd")
    _, rows = material(folder)
    mine = folder / "data"
    mine.mkdir()
    (mine / "rows.jsonl").write_bytes(rows.read_bytes())
    (folder / "runs").mkdir()
    other = folder / "elsewhere"
    other.mkdir()
    (other / "rows.jsonl").write_bytes(rows.read_bytes()[:-20] + b"x" * 19 + b"\n")
    (folder / "empty").mkdir()
    with hosts(2, folder / "hosts", ssh=True) as group:
        path = recipe(folder, steps=2)
        tree = yaml.safe_load(path.read_text())
        tree["data"]["path"] = str(mine / "rows.jsonl")
        tree["output_dir"] = str(folder / "runs" / "run")
        path.write_text(yaml.safe_dump(tree))
        for source, target in ((other, mine), (folder / "empty", folder / "runs")):
            _on(group[1], "mount", "--bind", str(source), str(target))
        _on(group[1], "hostname", "nobody-knows-me")
        status, found, _ = _doctor(group, str(path), "--hostfile", str(group.hostfile()))
    told = _problems(found)
    assert status == 1
    assert len(told.splitlines()) == 3, told
    assert f"data '{mine / 'rows.jsonl'}': differs between hosts" in told
    assert "does not see what the first host writes" in told
    assert "its own name nobody-knows-me resolves to" in told
    assert "set engine.interface=eth0" in told
    return {"problems": 3}


@case(
    "lope doctor finds hosts that cannot be reached",
    group=CHECKED,
    states="An unknown name, a host that is cut off and one whose key is another's: each is "
    "told with its fix, before anything is started.",
)
def _doctor_reach(folder: Path) -> dict[str, Any]:
    require("sshd")
    with hosts(3, folder / "hosts", ssh=True) as group:
        group[1].cut()
        known = group.folder / "keys" / "known_hosts"
        lines = known.read_text().splitlines()
        lines[2] = lines[2][:-24] + "AAAAAAAAAAAAAAAAAAAAAAAA"
        known.write_text("\n".join(lines) + "\n")
        hostfile = group.hostfile()
        hostfile.write_text(hostfile.read_text() + "no-such-host slots=1\n")
        status, found, _ = _doctor(group, "--hostfile", str(hostfile))
    told = _problems(found)
    assert status == 1
    assert len(told.splitlines()) == 3, told
    assert f"ssh to {group[1].name}: " in told
    assert "the name does not resolve" in told
    assert f"ssh-keyscan {group[2].name}" in told
    return {"problems": 3}


def _on(host: Host, *command: str) -> None:
    """Run a command on a host as its administrator would."""
    log = Path(f"/tmp/lope-on-{os.getpid()}.log")
    try:
        assert host.start(command, log).wait(20) == 0, log.read_text()
    finally:
        log.unlink(missing_ok=True)


@case(
    "lope repro of a run on two hosts",
    group=CHECKED,
    states="The first steps of each stage, trained again on two ranks of one host, give the "
    "recorded losses to the last bit; one that was changed is found.",
)
def _repro(folder: Path) -> dict[str, Any]:
    with hosts(2, folder / "hosts") as group:
        succeed(by_torchrun(group, training(recipe(folder, steps=6))), 200)
        code = "from lope_dist.cli import main; main()"
        command = [sys.executable, "-c", code, "repro", str(folder / "run"), "--steps", "3"]
        # The recorded run names the hosts' interface, which torchrun's own port is not on.
        launch = start(group, 0, [*command, "--json"], "repro")
        assert wait([launch], 300) == [0], tails([launch])
        assert '"exact": true' in launch.output
        metrics = folder / "run" / "metrics.jsonl"
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        lines[7]["loss"] += 1e-5
        metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        launch = start(group, 0, command, "repro-changed")
        assert wait([launch], 300) == [1], tails([launch])
        assert "stage finetune, step 1" in launch.output
    return {"steps compared": 6}
