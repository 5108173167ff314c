"""Two and three hosts with addresses of their own: launching on them, and losing one."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.base import case
from faults.hosts import Hosts, hosts, require
from faults.launchers import (
    Launch,
    alone_on_one_host,
    assert_same_losses,
    by_no_ssh,
    by_ssh,
    by_torchrun,
    kill,
    recipe,
    steps_of,
    succeed,
    tails,
    training,
    until,
    wait,
    workers,
)
from faults.waits import assert_within

from lope_dist.core.errors import EXIT_PEER_LOST

LAUNCHING, LOSING = "Launching on several hosts", "Losing a host"
STEPS, MANY = 6, 300
TIMEOUT_S = 20
_By = Callable[[Hosts, list[str]], list[Launch]]


def _train_on(num: int, folder: Path, by: _By, *, ssh: bool = False) -> dict[str, Any]:
    """Train both stages on so many hosts and on one, and compare every loss."""
    alone, together = alone_on_one_host(folder, STEPS), folder / "together"
    with hosts(num, folder / "hosts", ssh=ssh) as group:
        begin = time.monotonic()
        succeed(by(group, training(recipe(folder, steps=STEPS, run="together"))))
        seconds = time.monotonic() - begin
        assert not any(host.pids() for host in group), [host.pids() for host in group]
    worst = assert_same_losses([alone, together])
    assert len(steps_of(together)) == 2 * STEPS
    return {"hosts": num, "launch (s)": round(seconds, 1), "loss difference": f"{worst:.1e}"}


@case(
    "torchrun, 2 hosts",
    group=LAUNCHING,
    states="`torchrun --nnodes 2` trains both stages; every loss equals one host's to 1e-4.",
    in_ci=True,
)
def _torchrun_2(folder: Path) -> dict[str, Any]:
    return _train_on(2, folder, by_torchrun)


@case(
    "torchrun, 3 hosts",
    group=LAUNCHING,
    states="`torchrun --nnodes 3` trains both stages; every loss equals one host's to 1e-4.",
)
def _torchrun_3(folder: Path) -> dict[str, Any]:
    return _train_on(3, folder, by_torchrun)


@case(
    "deepspeed --no_ssh, 2 hosts",
    group=LAUNCHING,
    states="`deepspeed --no_ssh --node_rank` on each of 2 hosts; losses equal one host's.",
)
def _no_ssh_2(folder: Path) -> dict[str, Any]:
    return _train_on(2, folder, by_no_ssh)


@case(
    "deepspeed --no_ssh, 3 hosts",
    group=LAUNCHING,
    states="`deepspeed --no_ssh --node_rank` on each of 3 hosts; losses equal one host's.",
)
def _no_ssh_3(folder: Path) -> dict[str, Any]:
    return _train_on(3, folder, by_no_ssh)


@case(
    "deepspeed --hostfile over ssh, 2 hosts",
    group=LAUNCHING,
    states="One `deepspeed --hostfile` starts 2 hosts by pdsh and ssh; losses equal one host's.",
)
def _ssh_2(folder: Path) -> dict[str, Any]:
    require("pdsh", "sshd")
    return _train_on(2, folder, by_ssh, ssh=True)


@case(
    "deepspeed --hostfile over ssh, 3 hosts",
    group=LAUNCHING,
    states="One `deepspeed --hostfile` starts 3 hosts by pdsh and ssh; losses equal one host's.",
)
def _ssh_3(folder: Path) -> dict[str, Any]:
    require("pdsh", "sshd")
    return _train_on(3, folder, by_ssh, ssh=True)


def _lose(
    folder: Path, harm: Callable[[Hosts], Any], by: _By, survivors: list[int], **engine: Any
) -> dict[str, Any]:
    """Train on two hosts, do harm in the first stage, and wait for the survivors' launchers."""
    with hosts(2, folder / "hosts") as group:
        path = recipe(folder, steps=MANY, timeout_s=TIMEOUT_S, **engine)
        launches = by(group, training(path))
        until(lambda: len(steps_of(folder / "run")) >= 5, launches)
        begin = time.monotonic()
        harm(group)
        left = [launches[i] for i in survivors]
        statuses = wait(left)
        seconds = time.monotonic() - begin
        assert_within(seconds, TIMEOUT_S + 60)
        assert all(status != 0 for status in statuses), tails(left)
        assert all("error (rank" in launch.output for launch in left), tails(left)
        for i in survivors:
            until(lambda i=i: not group[i].pids(), launches)
    return {"survivors end after (s)": round(seconds, 1), "status": statuses[0]}


@case(
    "a worker's host is lost, torchrun",
    group=LOSING,
    states="The power of the second host is cut; the first ends with a sentence and a status.",
    in_ci=True,
)
def _lose_worker_torchrun(folder: Path) -> dict[str, Any]:
    return _lose(folder, lambda group: group[1].kill(), by_torchrun, [0])


@case(
    "a worker's host is lost, deepspeed",
    group=LOSING,
    states="The power of the second host is cut; the first ends with a sentence and a status.",
)
def _lose_worker_deepspeed(folder: Path) -> dict[str, Any]:
    return _lose(folder, lambda group: group[1].kill(), by_no_ssh, [0])


@case(
    "the host of rank 0 is lost, torchrun",
    group=LOSING,
    states="Rank 0 and the rendezvous go at once; the other host ends with a sentence.",
)
def _lose_main_torchrun(folder: Path) -> dict[str, Any]:
    return _lose(folder, lambda group: group[0].kill(), by_torchrun, [1])


@case(
    "the host of rank 0 is lost, deepspeed",
    group=LOSING,
    states="Rank 0 and the rendezvous go at once; the other host ends with a sentence.",
)
def _lose_main_deepspeed(folder: Path) -> dict[str, Any]:
    return _lose(folder, lambda group: group[0].kill(), by_no_ssh, [1])


@case(
    "the network between two hosts is cut, deepspeed",
    group=LOSING,
    states="A link goes down and nobody is told; both sides end within the timeout and a minute.",
)
def _cut_deepspeed(folder: Path) -> dict[str, Any]:
    return _lose(folder, lambda group: group[1].cut(), by_no_ssh, [0, 1])


@case(
    "the network between two hosts is cut, torchrun",
    group=LOSING,
    states="A link goes down and nobody is told; both sides end within the timeout and a minute.",
)
def _cut_torchrun(folder: Path) -> dict[str, Any]:
    return _lose(folder, lambda group: group[1].cut(), by_torchrun, [0, 1])


@case(
    "a process of another host stops answering",
    group=LOSING,
    states="A rank gets SIGSTOP; the other host ends within the timeout and a minute.",
)
def _stop(folder: Path) -> dict[str, Any]:
    def stop(group: Hosts) -> None:
        kill(workers(group, 1), signal.SIGSTOP)

    return _lose(folder, stop, by_no_ssh, [0])


@case(
    "a rank of another host is killed",
    group=LOSING,
    states="`kill -9` of a worker; both launchers end, and the survivor names the rank and host.",
)
def _kill_worker(folder: Path) -> dict[str, Any]:
    def harm(group: Hosts) -> None:
        kill(workers(group, 1))

    figures = _lose(folder, harm, by_no_ssh, [0])
    (log,) = (folder / "hosts").glob("no_ssh-node1-*.log")
    assert "Rank 1 (process" in log.read_text(), log.read_text()[-2000:]
    return figures


@case(
    "deepspeed over ssh, a rank is killed",
    group=LOSING,
    states="`kill -9` of a worker started over ssh; the one launcher ends and leaves no process.",
)
def _kill_over_ssh(folder: Path) -> dict[str, Any]:
    require("pdsh", "sshd")
    with hosts(2, folder / "hosts", ssh=True) as group:
        launches = by_ssh(group, training(recipe(folder, steps=MANY, timeout_s=TIMEOUT_S)))
        until(lambda: len(steps_of(folder / "run")) >= 5, launches)
        begin = time.monotonic()
        kill(workers(group, 1))
        (status,) = wait(launches)
        seconds = time.monotonic() - begin
        assert_within(seconds, TIMEOUT_S + 60)
        assert status != 0
        assert "Rank 1 (process" in launches[0].output, tails(launches)
        until(lambda: not (group[0].pids() or group[1].pids()), launches)
    return {"launcher ends after (s)": round(seconds, 1), "status": status}


@case(
    "a host never starts",
    group=LAUNCHING,
    states="One of two hosts is not launched; the other ends at the timeout and says who to ask.",
)
def _absent(folder: Path) -> dict[str, Any]:
    with hosts(2, folder / "hosts") as group:
        path = recipe(folder, steps=STEPS, timeout_s=TIMEOUT_S)
        launches = by_no_ssh(group, training(path), first=1)
        begin = time.monotonic()
        (status,) = wait(launches)
        seconds = round(time.monotonic() - begin, 1)
        assert status == EXIT_PEER_LOST, tails(launches)
        told = "Rank 1 cannot use the rendezvous at 10.77.0.1:29600"
        assert told in launches[0].output, tails(launches)
        assert not (folder / "run" / "checkpoints").exists()
    return {"ends after (s)": seconds}


@case(
    "a wrong interface",
    group=LAUNCHING,
    states="`engine.interface` names none of the host's: one sentence lists those there are.",
)
def _interface(folder: Path) -> dict[str, Any]:
    with hosts(1, folder / "hosts") as group:
        command = training(recipe(folder, steps=STEPS), "engine.interface=eth7")
        launches = by_torchrun(group, command)
        begin = time.monotonic()
        (status,) = wait(launches)
        seconds = round(time.monotonic() - begin, 1)
        assert status != 0
        output = launches[0].output
        assert "engine.interface = 'eth7' is no network interface of node1" in output, output[
            -2000:
        ]
        assert "eth0 (10.77.0.1)" in output
    shutil.rmtree(folder / "hosts")
    return {"ends after (s)": seconds}


@case(
    "the rendezvous listens on its interface alone",
    group=LAUNCHING,
    states="With `engine.interface` every listening socket of a rank is bound to its address.",
)
def _bound(folder: Path) -> dict[str, Any]:
    with hosts(2, folder / "hosts") as group:
        launches = by_no_ssh(group, training(recipe(folder, steps=MANY, timeout_s=TIMEOUT_S)))
        until(lambda: len(steps_of(folder / "run")) >= 3, launches)
        found = {}
        for i, host in enumerate(group):
            log = group.folder / f"ss{i}.log"
            assert host.start(["ss", "-tlnH"], log).wait(20) == 0
            found[i] = [line.split()[3] for line in log.read_text().splitlines()]
            addresses = {address.rpartition(":")[0] for address in found[i]}
            assert addresses <= {host.address}, found
        assert "10.77.0.1:29600" in found[0], found
        kill(workers(group, 0))
        wait(launches)
    return {"listening sockets": sum(len(a) for a in found.values())}
