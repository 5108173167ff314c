"""Start ranks as real processes, wait for them within a limit, leave none behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml
from support.warm_ranks import WarmRank, start_warm

from lope_dist.config.load import load_config
from lope_dist.core.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]

Process = subprocess.Popen | WarmRank


@dataclass(frozen=True)
class Rank:
    """How one rank ended."""

    status: int
    output: str
    ended: float
    """When it was seen to have ended, `time.monotonic()`."""


class Running:
    """Ranks that were started; whatever happens, `wait` leaves none behind."""

    def __init__(self, processes: Sequence[Process], logs: list[IO[str]]) -> None:
        self.processes, self._logs = processes, logs

    def wait(self, timeout_s: float = 150.0, stopped: Collection[int] = ()) -> list[Rank]:
        """Wait until all have ended; those ``stopped`` are killed once the others have.

        Raises:
            TimeoutError: not all ended in time; all were killed, and the message has their output.
        """
        deadline, ended = time.monotonic() + timeout_s, {}
        awaited = [i for i in range(len(self.processes)) if i not in stopped]
        while len(ended) < len(awaited) and time.monotonic() < deadline:
            for i in awaited:
                if i not in ended and self.processes[i].poll() is not None:
                    ended[i] = time.monotonic()
            time.sleep(0.02)
        late = [i for i in awaited if i not in ended]
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        ranks = []
        for i, (process, log) in enumerate(zip(self.processes, self._logs, strict=True)):
            log.seek(0)
            ranks.append(Rank(process.returncode, log.read(), ended.get(i, time.monotonic())))
            log.close()
        if late:
            tails = "\n".join(f"rank {i}: {rank.output[-2000:]}" for i, rank in enumerate(ranks))
            raise TimeoutError(f"ranks {late} did not end within {timeout_s} s\n{tails}")
        return ranks


def run_ranks(
    arguments: Sequence[str],
    num_ranks: int,
    *,
    folder: Path,
    timeout_s: float = 150.0,
    environment: Mapping[str, str] | None = None,
    is_warm: bool = True,
) -> list[Rank]:
    """Run ``python ARGUMENTS`` once a rank, on CPU over gloo, as a launcher would.

    Args:
        arguments: What stands behind `python`.
        num_ranks: How many.
        folder: Of the logs.
        timeout_s: How long all may take.
        environment: Variables beside those of a rank.
        is_warm: Whether processes are taken that have imported what ranks import. A test of how
            processes begin or end takes fresh ones.

    Raises:
        TimeoutError: not all ended in time; all were killed, and the message has their output.
    """
    running = start_ranks(
        arguments, num_ranks, folder=folder, environment=environment, is_warm=is_warm
    )
    return running.wait(timeout_s)


def train_tree(tree: dict[str, Any], num_ranks: int) -> list[Rank]:
    """Train a configuration tree: on ranks, or alone in this process; return how ranks ended.

    Its recipe is the run's folder with `.yaml` behind it.
    """
    run = Path(tree["output_dir"])
    recipe = run.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump(tree, sort_keys=False))
    if num_ranks == 1:
        from lope_dist.train.session import train

        train(load_config(recipe))
        return []
    ended = run_ranks(["launch/train.py", str(recipe)], num_ranks, folder=run.parent)
    succeed(ended)
    return ended


def start_ranks(
    arguments: Sequence[str],
    num_ranks: int,
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    absent: Collection[int] = (),
    is_warm: bool = False,
) -> Running:
    """Start ``python ARGUMENTS`` once a rank, but for the ranks that are to be ``absent``."""
    port = free_port()
    processes: list[Process] = []
    logs = []
    for rank in range(num_ranks):
        if rank in absent:
            continue
        log = (folder / f"rank{rank}-{port}.log").open("w+")
        variables = rank_environment(folder) | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(num_ranks),
            "LOCAL_WORLD_SIZE": str(num_ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        variables |= dict(environment or {})
        logs.append(log)
        if is_warm:
            processes.append(start_warm(rank, arguments, REPOSITORY, variables, log))
            continue
        processes.append(
            subprocess.Popen(
                [sys.executable, *arguments],
                cwd=REPOSITORY,
                env=variables,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        )
    return Running(processes, logs)


def start_deepspeed(arguments: Sequence[str], num_ranks: int, *, folder: Path) -> Running:
    """Start the real `deepspeed` launcher as one process, the leader of a group of its own."""
    port = free_port()
    log = (folder / f"deepspeed-{port}.log").open("w+")
    launcher = Path(sys.executable).parent / "deepspeed"
    options = ["--num_gpus", str(num_ranks), "--master_port", str(port), "--no_local_rank"]
    variables = rank_environment(folder)
    variables["PATH"] = f"{launcher.parent}{os.pathsep}{variables['PATH']}"
    process = subprocess.Popen(
        [sys.executable, str(launcher), *options, *arguments],
        cwd=REPOSITORY,
        env=variables,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return Running([process], [log])


def rank_environment(folder: Path) -> dict[str, str]:
    """Return the environment of a rank, but for its number."""
    return os.environ | {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "TORCH_EXTENSIONS_DIR": str(folder / "torch_extensions"),
    }


def processes_naming(text: str) -> dict[int, str]:
    """Return pid and command line of each living process with ``text`` in its command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if text in command:
                found[int(entry.name)] = command
    return found


def succeed(ranks: Sequence[Rank]) -> None:
    """Assert that every rank ended well, or show how it did not."""
    for number, rank in enumerate(ranks):
        assert rank.status == 0, f"rank {number} ended with {rank.status}:\n{rank.output[-4000:]}"
