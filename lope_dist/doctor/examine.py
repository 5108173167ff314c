"""All checks, in the order in which a launch would run into them."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.files import nearest_existing
from lope_dist.core.ports import free_port
from lope_dist.doctor import compare
from lope_dist.doctor.files import data_files, model_files
from lope_dist.doctor.finding import Finding, bad, good
from lope_dist.doctor.hostfile import read_hostfile
from lope_dist.doctor.remote import finish, reach, start

_PROBE_S, _RING_S, _ROWS_S = 120.0, 180.0, 3600.0
_LOCAL = "this host"
_Begin = Callable[[str, str], subprocess.Popen[str]]
"""Starts one of the doctor's own commands on a host by name."""


def examine(
    config: RunConfig | None,
    hostfile: Path | None,
    min_free_gib: float,
    sent: Mapping[str, str],
) -> Iterator[Finding]:
    """Yield what each check finds; a check that others need and that fails ends the list.

    Only this host is looked at without a hostfile, and with a hostfile of one host, for which
    DeepSpeed starts the ranks here.

    Args:
        config: The recipe, whose files are looked at.
        hostfile: DeepSpeed's list of hosts.
        min_free_gib: Least free disk space.
        sent: Variables that a launch sets on several hosts.
    """

    def begin(name: str, command: str) -> subprocess.Popen[str]:
        return start(name if len(hosts) > 1 else None, [command], sent)

    hosts: dict[str, int] = {}
    if hostfile is not None:
        hosts, findings = read_hostfile(hostfile)
        yield from findings
        if not all(f.ok for f in findings):
            return
        if len(hosts) > 1:
            yield _pdsh()
        reachable = True
        for name in hosts:
            finding = _reach(name)
            reachable &= finding.ok
            yield finding
        if not reachable:
            return
    answers: dict[str, dict[str, Any]] = {}
    for name, answer in _probe(config, hosts, begin).items():
        if isinstance(answer, Finding):
            yield answer
        else:
            answers[name] = answer
    if len(answers) < max(1, len(hosts)):
        return
    yield from compare.versions(answers)
    yield from compare.devices(answers, hosts)
    yield from compare.space(answers, min_free_gib)
    if config is not None:
        files = list(compare.files(answers, config))
        yield from files
        yield from compare.output(answers, config)
        are_files_alike = all(file.ok for file in files)
        yield from _rows(config, hosts, begin, are_files_alike=are_files_alike)
    configured = config.engine.interface if config is not None else None
    network = list(compare.network(answers, configured))
    yield from network
    if all(f.ok for f in network):
        interface = configured or compare.common_interface(answers)
        yield _all_reduce(answers, hosts, interface, begin)


def _pdsh() -> Finding:
    check = "pdsh here"
    if (path := shutil.which("pdsh")) is not None:
        return good(check, path)
    return bad(
        check,
        "not installed, and `lope launch --hostfile` and launch/ssh.sh start the hosts by it",
        "apt install pdsh; launch/no_ssh.sh, launch/torchrun.sh and Slurm do without",
    )


def _reach(host: str) -> Finding:
    check = f"ssh to {host}"
    try:
        addresses = sorted({str(i[4][0]) for i in socket.getaddrinfo(host, None)})
    except OSError as error:
        return bad(
            check,
            f"the name does not resolve ({error.args[-1]})",
            f"add '<address> {host}' to /etc/hosts of every host, or mend the hostfile",
        )
    reason = reach(host)
    if reason is None:
        return good(check, ", ".join(addresses))
    fixes = {
        "Permission denied": f"copy your key there: ssh-copy-id {host}",
        "Host key verification failed": f"ssh-keyscan {host} >> ~/.ssh/known_hosts",
        "refused": f"start sshd on {host}",
        "not installed": "install an ssh client (openssh-client)",
    }
    fix = next((f for words, f in fixes.items() if words in reason), f"try: ssh {host} true")
    return bad(check, reason, fix)


def _probe(
    config: RunConfig | None, hosts: dict[str, int], begin: _Begin
) -> dict[str, dict[str, Any] | Finding]:
    """Return what each host tells of itself, asked all at once."""
    output = Path(config.output_dir).absolute() if config is not None else None
    folders = {"temporary files": tempfile.gettempdir(), "home": str(Path.home())}
    files: dict[str, list[str]] = {}
    if config is not None:
        folders["output_dir"] = str(output)
        files = {"model": model_files(config.model), "data": data_files(config.data)}
        files = {what: paths for what, paths in files.items() if paths}
    question: dict[str, Any] = {"hosts": list(hosts), "folders": folders, "files": files}
    with _marker(output) as marker:
        question["marker"] = marker
        names = list(hosts) or [_LOCAL]
        started = {name: begin(name, "probe") for name in names}
        answers: dict[str, dict[str, Any] | Finding] = {}
        for name, process in started.items():
            answer, reason = finish(process, json.dumps(question), _PROBE_S)
            answers[name] = answer or bad(
                f"Python on {name}",
                reason,
                "install the same environment at the same path, and start from a folder that "
                "exists on every host",
            )
    return answers


def _rows(
    config: RunConfig, hosts: dict[str, int], begin: _Begin, *, are_files_alike: bool
) -> Iterator[Finding]:
    """Have each host read, render and count rows that are in files, all at once."""
    from lope_dist.train.premises.data import is_local  # slow to import

    try:
        if not is_local(config.data):
            return
    except LopeError as error:
        yield bad("rows", str(error), "mend data.path")
        return
    names = list(hosts) or [_LOCAL]
    question = json.dumps({"config": config.model_dump(mode="json")})
    started = {name: begin(name, "rows") for name in names}
    answers = {}
    for name, process in started.items():
        answer, reason = finish(process, question, _ROWS_S)
        if answer is None:
            yield bad(f"rows on {name}", reason, "mend them; `lope data stats CONFIG` shows more")
        else:
            answers[name] = answer
    yield from compare.rows(answers, are_files_alike=are_files_alike)


@contextmanager
def _marker(output: Path | None) -> Iterator[str | None]:
    """Keep a file beside the output folder for as long as hosts are asked whether they see it."""
    if output is None:
        yield None
        return
    path = nearest_existing(output) / ".lope-doctor"
    try:
        path.touch()
    except OSError:
        yield None  # another check says that it cannot be written
        return
    try:
        yield str(path)
    finally:
        path.unlink(missing_ok=True)


def _all_reduce(
    answers: dict[str, dict[str, Any]],
    hosts: dict[str, int],
    interface: str | None,
    begin: _Begin,
) -> Finding:
    """Start a process group over the hosts and time it."""
    sizes = hosts or {_LOCAL: answers[_LOCAL]["devices"] or 2}
    ranks = [(name, i) for name, size in sizes.items() for i in range(size)]
    check = f"all-reduce over {len(ranks)} ranks"
    address = "127.0.0.1"
    if hosts:
        first = next(iter(hosts))
        told = answers[first]
        address = told["interfaces"].get(interface) or told["address"] or told["names"][first][0]
    base = {
        "size": len(ranks),
        "address": address,
        "port": free_port(),
        "interface": interface,
        "timeout_s": 60.0,
    }
    processes = [begin(name, "all-reduce") for name, _ in ranks]
    for rank, ((name, local_rank), process) in enumerate(zip(ranks, processes, strict=True)):
        question = base | {"rank": rank, "local_rank": local_rank, "local_size": sizes[name]}
        assert process.stdin is not None
        process.stdin.write(json.dumps(question))
        process.stdin.close()
        process.stdin = None
    answered = [finish(process, "", _RING_S) for process in processes]
    for (name, _), (answer, reason) in zip(ranks, answered, strict=True):
        if answer is None:
            return bad(
                check,
                f"{name}: {reason}",
                "open all TCP ports between the hosts, and name the network that joins them by "
                "engine.interface",
            )
    if not all(answer["right"] for answer, _ in answered):
        return bad(check, "the sum is wrong", "look for a broken network device or driver")
    slowest = max(answer["large_s"] for answer, _ in answered)
    small = max(answer["small_s"] for answer, _ in answered)
    rate = answered[0][0]["bytes"] / slowest / 1e6
    kind = "NCCL" if answered[0][0]["device"] == "cuda" else "gloo"
    over = f" over {interface}" if interface and kind == "gloo" else ""  # NCCL may have InfiniBand
    return good(
        check,
        f"{kind}{over}: 4 MiB in {1e3 * slowest:.1f} ms ({rate:.0f} MB/s), "
        f"4 bytes in {1e3 * small:.2f} ms",
    )
