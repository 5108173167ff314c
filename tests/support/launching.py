"""Start ranks as real processes, wait for them within a limit, leave none behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Rank:
    """How one rank ended."""

    status: int
    output: str


def run_ranks(
    arguments: Sequence[str],
    num_ranks: int,
    *,
    folder: Path,
    timeout_s: float = 150.0,
    environment: Mapping[str, str] | None = None,
) -> list[Rank]:
    """Run ``python ARGUMENTS`` once a rank, on CPU over gloo, as a launcher would.

    Raises:
        TimeoutError: not all ended in time; all were killed, and the message has their output.
    """
    port = _free_port()
    processes, logs = [], []
    for rank in range(num_ranks):
        log = (folder / f"rank{rank}-{port}.log").open("w+")
        variables = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(num_ranks),
            "LOCAL_WORLD_SIZE": str(num_ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "TORCH_EXTENSIONS_DIR": str(folder / "torch_extensions"),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, *arguments],
                cwd=REPOSITORY,
                env=variables | dict(environment or {}),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        )
        logs.append(log)
    deadline = time.monotonic() + timeout_s
    try:
        for process in processes:
            process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    late = [rank for rank, process in enumerate(processes) if process.poll() is None]
    for rank in late:
        processes[rank].kill()
        processes[rank].wait()
    ended = []
    for process, log in zip(processes, logs, strict=True):
        log.seek(0)
        ended.append(Rank(process.returncode, log.read()))
        log.close()
    if late:
        tails = "\n".join(f"rank {i}: {rank.output[-2000:]}" for i, rank in enumerate(ended))
        raise TimeoutError(f"ranks {late} did not end within {timeout_s} s\n{tails}")
    return ended


def succeed(ranks: Sequence[Rank]) -> None:
    """Assert that every rank ended well, or show how it did not."""
    for number, rank in enumerate(ranks):
        assert rank.status == 0, f"rank {number} ended with {rank.status}:\n{rank.output[-4000:]}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
