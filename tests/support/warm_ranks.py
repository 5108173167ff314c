"""Ranks that start at once: each is forked from a process that has imported everything.

A rank's imports take longer than most tests of ranks. Rank 0 has a process of its own, rank 1 too,
and so on, so that ranks differ in Python's hash seed, as ranks of a launcher do.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_SERVER = Path(__file__).with_name("warm_rank.py")
_START_S = 120.0


class WarmRank:
    """A forked rank; what tests use of `subprocess.Popen`."""

    def __init__(self, server: _Server, pid: int) -> None:
        self.pid, self._server = pid, server

    @property
    def returncode(self) -> int | None:
        """Its status, once it was seen to have ended."""
        return self._server.ended.get(self.pid)

    def poll(self) -> int | None:
        """Return its status, None while it runs."""
        self._server.read(0)
        return self.returncode

    def wait(self) -> int:
        """Return its status once it has ended."""
        while (status := self.returncode) is None:
            self._server.read(1.0)
        return status

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class _Server:
    """The process that a rank number's ranks are forked from."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.ended: dict[int, int] = {}
        self._started: list[int] = []
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self._process = subprocess.Popen(
            [sys.executable, str(_SERVER), str(theirs.fileno())],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        atexit.register(self.close)

    def start(self, message: bytes, log: IO[str]) -> WarmRank:
        """Fork a rank that writes to ``log``."""
        socket.send_fds(self._socket, [message], [log.fileno()])
        deadline = time.monotonic() + _START_S
        while not self._started and time.monotonic() < deadline:
            self.read(1.0)
        if not self._started:
            raise TimeoutError(f"no rank was forked within {_START_S} s")
        return WarmRank(self, self._started.pop())

    def read(self, timeout_s: float) -> None:
        """Take in what the server has told."""
        self._socket.settimeout(timeout_s or 1e-6)
        try:
            while told := self._socket.recv(4096).decode().split():
                if told[0] == "started":
                    self._started.append(int(told[1]))
                    return
                self.ended[int(told[1])] = int(told[2])
        except (TimeoutError, BlockingIOError):
            return
        raise RuntimeError("the process that ranks are forked from has ended")

    def close(self) -> None:
        """End the server."""
        self._socket.close()
        self._process.wait()


_servers: dict[int, _Server] = {}


def start_warm(
    number: int,
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    log: IO[str],
) -> WarmRank:
    """Start what `python ARGUMENTS` is in a folder, as the rank of that number."""
    if number not in _servers:
        _servers[number] = _Server(environment)
    message = {
        "arguments": list(arguments),
        "folder": str(folder),
        "environment": dict(environment),
    }
    return _servers[number].start(json.dumps(message).encode(), log)
