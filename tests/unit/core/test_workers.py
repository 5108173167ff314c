"""Workers that die, hang or stand still are named in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from lope_dist.core import workers
from lope_dist.core.errors import EXIT_PEER_LOST, LopeError
from lope_dist.core.workers import Watch, forked_pool


def _adopt() -> None:
    return None


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    """Two workers."""
    workers_of_it = forked_pool(2, _adopt)
    yield workers_of_it
    workers_of_it.shutdown(wait=False, cancel_futures=True)


def test_a_worker_that_stands_still_is_named_within_half_of_the_limit(pool) -> None:
    watch = Watch(pool, "data.workers = 2", 4)
    assert watch.result(pool.submit(os.getpid)) != os.getpid()
    future, began = pool.submit(_stop), time.monotonic()
    with pytest.raises(LopeError, match=r"data.workers = 2 stands still: process (\d+) is stopped"):
        watch.result(future)
    assert time.monotonic() - began < 4


def test_a_worker_that_hangs_is_noticed_at_the_limit(pool) -> None:
    with pytest.raises(LopeError, match=r"data.workers = 2 .* 1 s") as caught:
        Watch(pool, "data.workers = 2", 1).result(pool.submit(time.sleep, 60))
    assert caught.value.status == EXIT_PEER_LOST, "another try may go well"


def test_a_worker_that_stands_still_is_noticed_while_others_go_on(
    pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_MOST_STOPPED_S", 2.0)
    watch = Watch(pool, "a build")
    others = [pool.submit(_stop), *(pool.submit(time.sleep, 0.1) for _ in range(200))][1:]
    with pytest.raises(LopeError, match=r"process \d+ .*SIGSTOP"):
        list(map(watch.result, others))
    assert not others[100].done(), "long before the others were done"


def test_an_error_of_the_work_comes_through(pool) -> None:
    with pytest.raises(ZeroDivisionError):
        Watch(pool, "a build", 20).result(pool.submit(divmod, 1, 0))


PARALLEL = """
import torch
from lope_dist.core.workers import in_order

torch.set_num_threads(2)
torch.ones(1 << 20).add_(1)  # starts OpenMP's threads, which a fork does not take along


def make(number):
    return int((torch.zeros(1 << 20) + number).max())


made = in_order(make, range(3), 1, what="the test", remedy="mend it", limit_s=20)
print([result for _, result in made])
"""


def test_a_worker_computes_after_its_parent_has_used_all_threads() -> None:
    variables = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", PARALLEL], env=variables, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[0, 1, 2]\n", done.stderr[-500:]
