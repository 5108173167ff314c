"""Hosts on one machine: namespaces with addresses, names, processes and `/dev/shm` of their own.

Each host is a set of Linux namespaces (net, pid, mount, uts, ipc) on a bridge that lives in a
namespace too, so that nothing of the machine's own network changes:

    hub     br0 ── p1 ── p2 ── p3
                   │     │     │
    host         node1 node2 node3      eth0 = 10.77.0.1, .2, .3;  sshd;  /etc/hosts

The first process of a host is its init. Killing that ends all processes of the host at once, as
a power cut does, and closes no connection by itself. When the process that made the hosts ends,
however it ends, the kernel ends the hosts: none is left behind.

Needs root, `unshare`, `nsenter` and `ip`; ssh also `sshd`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from faults.base import NotRun
from faults.ssh import start_sshd

INTERFACE = "eth0"
_READY_S = 10.0
_UNSHARE = ["unshare", "--kill-child=SIGKILL", "--fork"]
# Reaps what its children leave, as an init must.
_INIT = """
import os, signal
def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]: pass
    except ChildProcessError: pass
signal.signal(signal.SIGCHLD, reap)
open(os.environ["READY"], "w").close()
while True: signal.pause()
"""
_START = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount --bind "$HOSTS_FILE" /etc/hosts
hostname "$HOST_NAME"
exec "$PYTHON" -S -c "$INIT"
"""


@dataclass
class Host:
    """One host."""

    name: str
    address: str
    init: int
    """Process number of its init, seen from the machine."""
    port: str
    """Name of its port at the bridge."""
    _hub: int
    _commands: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(
        self,
        command: Sequence[str],
        log: Path | IO[str] | int,
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command on this host; its output goes to ``log``."""
        inside = ["nsenter", "-t", str(self.init), "-n", "-p", "-m", "-u", "-i"]
        inside += [f"--wdns={folder or Path.cwd()}"]
        output = log.open("w") if isinstance(log, Path) else log
        process = subprocess.Popen(
            [*inside, *command],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        if isinstance(log, Path):
            output.close()  # type: ignore[union-attr]
        self._commands.append(process)
        return process

    def pids(self) -> dict[int, str]:
        """Return the live processes of this host but its init: number (outside) -> command."""
        namespace = _namespace(self.init)
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            pid = int(folder.name)
            try:
                is_ours = pid != self.init and os.readlink(folder / "ns/pid") == namespace
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                command = (folder / "cmdline").read_text().replace("\0", " ").strip()
            except OSError:
                continue
            if is_ours and state != "Z" and "sshd" not in command:
                found[pid] = command
        return found

    def cut(self) -> None:
        """Take the link down: nothing passes, and nobody is told."""
        _in_net(self._hub, "ip", "link", "set", self.port, "down")

    def mend(self) -> None:
        """Take the link up again."""
        _in_net(self._hub, "ip", "link", "set", self.port, "up")

    def kill(self) -> None:
        """Cut the power: the link first, then all processes at once."""
        self.cut()
        os.kill(self.init, signal.SIGKILL)


@dataclass(frozen=True)
class Hosts:
    """Hosts that reach each other, and the folder of their keys and programs."""

    all: tuple[Host, ...]
    folder: Path

    def __getitem__(self, index: int) -> Host:
        return self.all[index]

    def __iter__(self) -> Iterator[Host]:
        return iter(self.all)

    def hostfile(self, slots: int = 1) -> Path:
        """Write DeepSpeed's list of hosts."""
        path = self.folder / "hostfile"
        path.write_text("".join(f"{host.name} slots={slots}\n" for host in self.all))
        return path

    def environment(self) -> dict[str, str]:
        """Return what a launcher on a host needs: our `ssh` before the machine's."""
        bin_dir = Path(sys.executable).parent
        return {"PATH": f"{self.folder / 'bin'}:{bin_dir}:{os.environ['PATH']}"}


def require(*programs: str) -> None:
    """Raise `NotRun` where hosts cannot be made, or a program is not installed."""
    if os.geteuid() != 0:
        raise NotRun("network namespaces need root")
    absent = [p for p in ("unshare", "nsenter", "ip", *programs) if shutil.which(p) is None]
    if absent:
        raise NotRun(f"not installed: {', '.join(absent)}")


@contextmanager
def hosts(num: int, folder: Path, *, ssh: bool = False) -> Iterator[Hosts]:
    """Make ``num`` hosts, with sshd if asked; end them and all of their processes after.

    Raises:
        NotRun: this machine cannot make them.
    """
    require(*(("sshd", "ssh-keygen") if ssh else ()))
    # `ssh` in the words of the machine's own users; a name tells which test's host it is.
    names = [f"node{i + 1}-{os.getpid()}" for i in range(num)]
    addresses = [f"10.77.0.{i + 1}" for i in range(num)]
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["127.0.0.1 localhost"]
    lines += [f"{address} {name}" for address, name in zip(addresses, names, strict=True)]
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    with ExitStack() as stack:
        hub = _start_hub(folder, stack)
        made = []
        for i, (name, address) in enumerate(zip(names, addresses, strict=True), start=1):
            init = _start_host(folder, name, stack)
            _plug(hub, f"p{i}", init, address)
            made.append(Host(name, address, init, f"p{i}", hub))
        group = Hosts(tuple(made), folder)
        if ssh:
            start_sshd(group)
        try:
            yield group
        finally:
            for host in made:
                for process in host._commands:
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def _start_hub(folder: Path, stack: ExitStack) -> int:
    ready = folder / "hub.ready"
    command = [*_UNSHARE, "--net", sys.executable, "-S", "-c", _INIT]
    hub = _start_init(command, {"READY": str(ready)}, ready, stack)
    _in_net(hub, "ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
    _in_net(hub, "ip", "link", "set", "br0", "up")
    return hub


def _start_host(folder: Path, name: str, stack: ExitStack) -> int:
    ready = folder / f"{name}.ready"
    spaces = ["--net", "--pid", "--mount", "--uts", "--ipc"]
    variables = {
        "READY": str(ready),
        "HOSTS_FILE": str(folder / "hosts"),
        "HOST_NAME": name,
        "PYTHON": sys.executable,
        "INIT": _INIT,
    }
    return _start_init([*_UNSHARE, *spaces, "sh", "-c", _START], variables, ready, stack)


def _start_init(
    command: list[str], variables: Mapping[str, str], ready: Path, stack: ExitStack
) -> int:
    """Start a namespace's first process; return its number seen from here."""
    process = subprocess.Popen(
        command, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, start_new_session=True
    )
    stack.callback(process.wait)
    stack.callback(lambda: process.poll() is None and os.killpg(process.pid, signal.SIGKILL))
    deadline = time.monotonic() + _READY_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise NotRun(f"namespaces cannot be made here (status {process.poll()})")
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


def _plug(hub: int, port: str, init: int, address: str) -> None:
    """Join a host to the bridge by a pair of virtual interfaces."""
    peer = ["peer", "name", INTERFACE, "netns", str(init)]
    _in_net(hub, "ip", "link", "add", port, "type", "veth", *peer)
    _in_net(hub, "ip", "link", "set", port, "master", "br0", "up")
    _in_net(init, "ip", "addr", "add", f"{address}/24", "dev", INTERFACE)
    _in_net(init, "ip", "link", "set", INTERFACE, "up")
    _in_net(init, "ip", "link", "set", "lo", "up")


def _in_net(pid: int, *command: str) -> None:
    subprocess.run(["nsenter", "-t", str(pid), "-n", *command], check=True, timeout=20)


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return "gone"
