"""What is checked before a launch, and that a run can be repeated."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from faults.base import case
from faults.hosts import INTERFACE, Host, Hosts, hosts, require
from faults.launchers import (
    by_torchrun,
    material,
    recipe,
    start,
    succeed,
    tails,
    training,
    wait,
)

CHECKED = "Checked before a launch, and after"


def _doctor(group: Hosts, *options: str, host: int = 0) -> tuple[int, dict[str, Any], str]:
    """Run `lope doctor --json` on a host; return status, findings and what else was printed."""
    code = "from lope_dist.cli import main; main()"
    launch = start(
        group, host, [sys.executable, "-c", code, "doctor", *options, "--json"], "doctor"
    )
    (status,) = wait([launch])
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
    lines = rows.read_bytes().splitlines(keepends=True)
    (other / "rows.jsonl").write_bytes(b"".join([*lines[:-1], lines[0]]))
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
        succeed(by_torchrun(group, training(recipe(folder, steps=6))))
        code = "from lope_dist.cli import main; main()"
        command = [sys.executable, "-c", code, "repro", str(folder / "run"), "--steps", "3"]
        # The recorded run names the hosts' interface, which torchrun's own port is not on.
        launch = start(group, 0, [*command, "--json"], "repro")
        assert wait([launch]) == [0], tails([launch])
        assert '"exact": true' in launch.output
        metrics = folder / "run" / "metrics.jsonl"
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        lines[7]["loss"] += 1e-5
        metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        launch = start(group, 0, command, "repro-changed")
        assert wait([launch]) == [1], tails([launch])
        assert "stage finetune, step 1" in launch.output
    return {"steps compared": 6}
