"""Ranks that look after each other, as threads of one process around a real store."""

import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from lope_dist.core.errors import EXIT_PEER_LOST, PeerLost
from lope_dist.engine import peers as module
from lope_dist.engine import store_guard
from lope_dist.engine.peers import Peers

HOST = socket.gethostname()


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[PeerLost]:
    """Causes for which the watching threads would have ended the process."""
    causes: list[PeerLost] = []
    for watching in (module, store_guard):
        monkeypatch.setattr(watching, "end_at_once", causes.append)
    return causes


@pytest.fixture
def meet(ended):
    """Return a function: let some ranks of a world meet in a store."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = "127.0.0.1", probe.getsockname()[1]
    store = dist.TCPStore(*address, is_master=True, timeout=timedelta(seconds=5))
    met: list[Peers] = []

    def meet(size: int, ranks: list[int], timeout_s: float, attempt: str = "0") -> list[Peers]:
        with ThreadPoolExecutor(len(ranks)) as pool:
            found = list(
                pool.map(lambda rank: Peers(rank, size, address, timeout_s, attempt), ranks)
            )
        met.extend(found)
        return found

    yield meet
    for peers in met:
        peers.close()
    del store


def test_ranks_that_are_all_there_find_no_fault(meet, ended) -> None:
    first, second = meet(2, [0, 1], timeout_s=2)
    for _ in range(3):
        first.advance()
        second.advance()
        time.sleep(0.3)
        assert first._look() is None
        assert second._look() is None
    assert ended == []


def test_who_does_not_come_is_named_with_its_host(meet, monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    began = time.monotonic()
    told = rf"Rank 1 \(on {HOST}\), Rank 2 \(on a host of which no rank came\) did not start"
    with pytest.raises(PeerLost, match=told):
        meet(3, [0], timeout_s=0.5)
    assert 0.4 < time.monotonic() - began < 5


def test_who_came_later_is_told_whom_the_first_ones_missed(meet) -> None:
    """The first to lose patience may keep the store."""
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(meet, 3, [0], timeout_s=1)
        time.sleep(0.5)
        later = pool.submit(meet, 3, [2], timeout_s=30)
        with pytest.raises(PeerLost, match=r"^Rank 1 .*engine\.timeout_s = 1 s"):
            first.result()
        with pytest.raises(PeerLost, match=r"^Rank 1 .*engine\.timeout_s = 1 s"):
            later.result()


def test_a_reason_is_passed_on_to_all_and_the_first_one_stands(meet) -> None:
    first, second, third = meet(3, [0, 1, 2], timeout_s=4)
    second.tell("the disk is full", status=2)
    third.tell("communication failed")
    told = f"Rank 1 (process {module.process_identity().pid} on {HOST}) stopped: the disk is full"
    assert first.blame() == told
    assert third._look() == told
    assert [peers.loss(told).status for peers in (first, third)] == [2, 2], "no other try helps"


def test_who_waits_elsewhere_ends_with_the_status_of_the_rank_that_stopped(meet, ended) -> None:
    _, second, third = meet(3, [0, 1, 2], timeout_s=2)
    second.tell("no such file", status=2)
    third._over.wait(2 * third._period_s + third._grace_s + 0.2)  # its main thread waits in vain
    assert {cause.status for cause in ended if "no such file" in str(cause)} == {2}
    with pytest.raises(PeerLost, match="no such file") as caught:
        meet(3, [2], timeout_s=2)  # one that comes only then
    assert caught.value.status == 2


def test_rank_0_ends_after_the_others_have_heard_why(meet) -> None:
    """It may keep the store, and then they could not ask any more."""
    first, second, third = meet(3, [0, 1, 2], timeout_s=4)
    first.tell("the disk is full")
    assert all("the disk is full" in peers._verdict.sentence for peers in (second, third))


def test_a_verdict_once_heard_outlives_the_store(meet, monkeypatch) -> None:
    """Rank 0 ends with its store when all have heard, and is not to blame for that."""
    first, second, third = meet(3, [0, 1, 2], timeout_s=4)
    third.tell("the disk is full")
    heard = second._look()
    assert heard is not None

    def gone(*_: object) -> None:
        raise RuntimeError("the store is gone")

    monkeypatch.setattr(second, "_read", gone)
    monkeypatch.setattr(second._board, "judge", gone)
    assert second.blame() == heard == first._look()


def test_a_new_attempt_does_not_read_the_last_ones_reasons(meet) -> None:
    first, second = meet(2, [0, 1], timeout_s=2)
    second.tell("a bad example")
    first.close()
    again, _ = meet(2, [0, 1], timeout_s=2, attempt="1")
    assert again._look() is None


def test_a_silent_rank_is_noticed_in_half_the_timeout_and_its_waiters_are_ended(
    meet, ended
) -> None:
    _, second, third = meet(3, [0, 1, 2], timeout_s=2)
    second.close()  # its thread beats no more
    began = time.monotonic()
    while not ended:
        assert time.monotonic() - began < 5
        time.sleep(0.05)
    assert time.monotonic() - began > 0.9
    assert all(cause.status == EXIT_PEER_LOST for cause in ended)
    assert "Rank 1 (process " in str(ended[0])
    third.close()


def test_a_rank_that_stays_behind_hangs(meet, ended) -> None:
    first, second, third = meet(3, [0, 1, 2], timeout_s=1)
    for peers in (first, second):
        peers.advance()
    began = time.monotonic()
    while not (told := first._look()):
        assert time.monotonic() - began < 5
        time.sleep(0.05)
    assert 0.9 < time.monotonic() - began < 1.6
    assert told.startswith("Rank 2 (process ")
    assert " hangs" in told
    assert third._look() is None  # it cannot know what the others wait for, and accuses nobody


def test_a_slow_rank_that_comes_in_time_is_no_fault(meet) -> None:
    first, second = meet(2, [0, 1], timeout_s=1)
    for _ in range(4):
        first.advance()
        time.sleep(0.6)
        assert first._look() is None
        second.advance()
        time.sleep(0.3)


def test_no_thread_is_left_when_it_is_over(meet) -> None:
    before = threading.active_count()
    first, second = meet(2, [0, 1], timeout_s=2)
    assert threading.active_count() == before + 4
    first.tell("done")
    second.close()
    assert threading.active_count() == before


def test_a_rank_that_tells_its_error_ends_with_its_own_status() -> None:
    """A thread that is in the store while Python exits aborts the process (status 134)."""
    code = (
        "import sys, time, torch.distributed as dist\n"
        "from lope_dist.engine.peers import Peers\n"
        "store = dist.TCPStore('127.0.0.1', 0, is_master=True)\n"
        "peers = Peers(0, 1, ('127.0.0.1', store.port), timeout_s=1e-4, attempt='0')\n"
        "time.sleep(0.2)\n"
        "peers.tell('a bad example')\n"
        "sys.exit(2)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 2


def test_after_a_failed_collective_a_few_missed_beats_are_enough(meet) -> None:
    """All that there is to see of a rank that died on another host."""
    first, second = meet(2, [0, 1], timeout_s=8)
    second.close()
    began = time.monotonic()
    told = first.blame()
    assert told is not None
    assert "Rank 1 (process " in told
    assert " 3 s" in told
    assert time.monotonic() - began < 5.5


def test_a_store_that_falls_silent_ends_the_process(meet, ended, monkeypatch) -> None:
    """Behind a cut cable a question to the store waits for longer than anyone should."""
    first, second = meet(2, [0, 1], timeout_s=2)
    released = threading.Event()
    monkeypatch.setattr(first, "_read", lambda: released.wait(20) and None)
    began = time.monotonic()
    while not ended:
        assert time.monotonic() - began < 5
        time.sleep(0.05)
    assert " 1 s" in str(ended[0])
    assert ended[0].status == EXIT_PEER_LOST
    released.set()
    second.close()
