"""A process that has imported what a rank imports, and forks one rank after the other.

Started by `warm_ranks.py` with a socket's file descriptor; a message is a rank's arguments and
environment, with the descriptor of its log. Ended ranks are told as `PID STATUS`.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
from typing import Any

import deepspeed  # noqa: F401
import torch

import lope_dist.cli
import lope_dist.evaluate.loaded.load
import lope_dist.train.session  # noqa: F401

LONGEST = 1 << 20
"""Bytes of a message."""


def serve(connection: socket.socket) -> tuple[dict[str, Any], int]:
    """Fork a rank for each message; return in that rank with the message and its log."""
    gc.freeze()  # DeepSpeed collects garbage, and would look through all that was imported
    atexit.register(gc.unfreeze)  # some modules count what is left of them
    ended, noted = socket.socketpair()
    ended.setblocking(False)
    noted.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(noted.fileno())
    while True:
        ready, _, _ = select.select([connection, ended], [], [])
        if ended in ready:
            ended.recv(4096)
            tell_ended(connection)
        if connection not in ready:
            continue
        message, logs, _, _ = socket.recv_fds(connection, LONGEST, 1)
        if not message:
            sys.exit()
        if pid := os.fork():
            connection.send(f"started {pid}".encode())
            os.close(logs[0])
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in (connection, ended, noted):
            each.close()
        return json.loads(message), logs[0]


def tell_ended(connection: socket.socket) -> None:
    """Send the status of each rank that has ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        connection.send(f"ended {pid} {os.waitstatus_to_exitcode(status)}".encode())


def become(message: dict[str, Any], log: int) -> None:
    """Do what `python ARGUMENTS` does in the message's folder and environment."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ.clear()
    os.environ.update(message["environment"])
    os.chdir(message["folder"])
    program, *rest = message["arguments"]
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    own = message["folder"] if program == "-m" else os.path.dirname(os.path.abspath(program))
    sys.path[:1] = [own, *(path for path in paths if path and path not in sys.path)]
    if program == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [program, *rest]
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    torch.set_num_threads(1)
    become(*serve(socket.socket(fileno=int(sys.argv[1]))))
