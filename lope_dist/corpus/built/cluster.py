"""The parts of a corpus as tasks of datatrove, on this machine or as a Slurm job array.

A task is a node: it makes the shards of its rank through the one builder, so the bytes are
the same as without datatrove. Needs the extra `cluster`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import Any

from lope_dist.core.errors import LopeError

BuildPart = Callable[..., Any]
"""Called with `node_rank` and `num_nodes`; must be picklable."""


@dataclass(frozen=True)
class SlurmJob:
    """What Slurm must know of each task."""

    partition: str
    time: str
    """Limit, as `04:00:00`."""
    qos: str = "normal"
    cpus: int = 1
    """Of a task; the builder uses as many processes."""
    memory_gb: int = 4
    """Of a task, for each of its CPUs."""
    env_command: str = ""
    """Shell line that activates the environment in which `lope_dist` is installed."""


@dataclass(frozen=True)
class PartTask:
    """A pipeline's only step: makes one part."""

    build_part: BuildPart = field(repr=False)

    def __call__(self, data: object, rank: int = 0, world_size: int = 1) -> None:
        """Make the part of ``rank``; datatrove passes the arguments."""
        self.build_part(node_rank=rank, num_nodes=world_size)


def run_local(build_part: BuildPart, logs: Path, *, tasks: int, workers: int) -> None:
    """Make all parts on this machine, ``workers`` at a time.

    Raises:
        LopeError: datatrove is not installed, or what making a part raises.
    """
    _require()
    from datatrove.executor import LocalPipelineExecutor

    LocalPipelineExecutor(
        [PartTask(build_part)],
        tasks=tasks,
        workers=workers,
        logging_dir=str(logs),
        skip_completed=False,  # whether a part is whole, its shards tell
    ).run()


def submit_slurm(
    build_part: BuildPart, logs: Path, job: SlurmJob, *, tasks: int, workers: int
) -> str:
    """Submit all parts as a job array, at most ``workers`` at a time; return the job's id.

    Raises:
        LopeError: datatrove is not installed, or there is no Slurm.
    """
    _require()
    if which("sbatch") is None:  # before datatrove writes its files
        raise LopeError(
            "There is no sbatch on this machine; submit from a node of the Slurm cluster, or "
            "leave the partition out to build here."
        )
    from datatrove.executor import SlurmPipelineExecutor

    executor = SlurmPipelineExecutor(
        [PartTask(build_part)],
        tasks=tasks,
        workers=workers,
        partition=job.partition,
        time=job.time,
        qos=job.qos,
        cpus_per_task=job.cpus,
        mem_per_cpu_gb=job.memory_gb,
        env_command=job.env_command or ":",
        job_name="lope-corpus",
        logging_dir=str(logs),
        skip_completed=False,
    )
    executor.run()
    return str(executor.job_id)


def _require() -> None:
    try:
        import datatrove  # noqa: F401
    except ImportError:
        raise LopeError(
            "Building on a cluster needs datatrove; install it with "
            "pip install 'lope-dist[cluster]'."
        ) from None
