"""The trackers of a run, from its start to its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lope_dist.train.checkpoint.progress import RunProgress
from lope_dist.train.premises.data import steps_of
from lope_dist.train.run.setup import Session
from lope_dist.train.trackers.base import TrackedRun, start_trackers


@contextmanager
def tracking(session: Session, progress: RunProgress) -> Iterator[None]:
    """Context in which the trackers of a run's configuration are told its figures, by rank 0.

    Who leaves it without `session.trackers.finish` was stopped.
    """
    config = session.config
    if session.world.is_main:
        names = config.train.tracking
        run = TrackedRun(
            folder=session.run_dir,
            project=names.project,
            name=names.name or session.run_dir.name,
            tags=names.tags,
            config=config.model_dump(mode="json"),
            known_id=None,
            steps_done=steps_before(session, progress) + progress.stage.next_step,
        )
        session.trackers = start_trackers(config.train.trackers, run)
    try:
        yield
    finally:
        session.trackers.finish(is_finished=False)


def steps_before(session: Session, progress: RunProgress) -> int:
    """Return the optimizer steps of the stages before the one that the run has come to."""
    steps = steps_of(session.config, session.source)
    return sum(list(steps.values())[: progress.index - 1])


def steps_after(session: Session, progress: RunProgress) -> int:
    """Return the optimizer steps of the stages behind the one that the run has come to."""
    steps = steps_of(session.config, session.source)
    return sum(list(steps.values())[progress.index :])
