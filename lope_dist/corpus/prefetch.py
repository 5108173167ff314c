"""The batches of coming steps, made by other processes while a step is computed."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

from lope_dist.core.errors import LopeError
from lope_dist.core.workers import Watch, forked_pool
from lope_dist.corpus.batches import MicroBatch
from lope_dist.corpus.loader import StageLoader

_AHEAD = 2  # steps that each worker is ahead


def batches_of(
    loader: StageLoader, *, first_step: int = 0, workers: int = 0, timeout_s: float = 600.0
) -> Iterator[tuple[int, list[MicroBatch]]]:
    """Yield each step from ``first_step`` on and this rank's micro-batches of it, in order.

    They are the same for any number of workers, and no state is kept but the step.

    Raises:
        LopeError: what making a batch raises, or a worker that died or gave nothing for
            ``timeout_s``.
    """
    steps = range(first_step, loader.num_steps)
    made = _here(loader, steps) if workers == 0 else _in_workers(loader, steps, workers, timeout_s)
    for step, batches in made:
        loader.note(step, batches)
        yield step, batches


def _here(loader: StageLoader, steps: range) -> Iterator[tuple[int, list[MicroBatch]]]:
    for step in steps:
        yield step, loader.micro_batches(step)


def _in_workers(
    loader: StageLoader, steps: range, workers: int, timeout_s: float
) -> Iterator[tuple[int, list[MicroBatch]]]:
    pool = forked_pool(workers, _adopt, loader)
    watch = Watch(pool, f"data.workers = {workers}", timeout_s)
    ahead: deque[tuple[int, Future[bytes]]] = deque()

    def following() -> tuple[int, list[MicroBatch]]:
        step, future = ahead.popleft()
        return step, pickle.loads(watch.result(future))

    try:
        for step in steps:
            ahead.append((step, pool.submit(_make, step)))
            if len(ahead) > workers * _AHEAD:
                yield following()
        while ahead:
            yield following()
    except BrokenProcessPool:
        raise LopeError(
            f"A worker of data.workers = {workers} died (killed, perhaps for want of memory) "
            "while it made a batch; resume the run, with fewer workers or data.workers=0."
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_loader: StageLoader | None = None  # of a worker process


def _adopt(loader: StageLoader) -> None:
    global _loader
    _loader = loader


def _make(step: int) -> bytes:
    assert _loader is not None
    # As bytes: a tensor would travel as a file descriptor in shared memory, of which a step of
    # many micro-batches has more than a process may hold, and a container little.
    return pickle.dumps(_loader.micro_batches(step), protocol=pickle.HIGHEST_PROTOCOL)
