from datetime import timedelta

import pytest
import torch
from support.thread_ranks import on_ranks

from lope_dist.config.engine import EngineConfig
from lope_dist.core.errors import LopeError
from lope_dist.engine.patience import be_patient
from lope_dist.engine.world import World, rank_device, start_world

LOCAL = EngineConfig(kind="local")
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _LAUNCHER:
        monkeypatch.delenv(name, raising=False)


def test_local_engine_needs_no_launcher_and_no_process_group() -> None:
    world = start_world(LOCAL)
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert not torch.distributed.is_initialized()
    assert world.sum([1.5, float("nan")])[0] == 1.5
    assert world.max([2]) == [2.0]
    world.barrier()
    world.close()


def test_local_engine_under_several_ranks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LopeError, match=r"launcher started 2; use engine\.kind=deepspeed"):
        start_world(LOCAL)


def test_a_device_without_enough_memory_is_a_mistake_that_is_not_tried_again() -> None:
    world = World(0, 1, torch.device("cpu"))
    told = r"rank 0 has too little memory \(CUDA.*\); take less\.$"
    with pytest.raises(LopeError, match=told) as caught, world.failures_named("take less"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
    assert caught.value.status == 2


@pytest.mark.parametrize(
    ("error", "status"), [(LopeError("A mistake."), 2), (OSError("a stall"), 69)]
)
def test_what_stops_rank_0_has_one_status_on_all_ranks(error: Exception, status: int) -> None:
    """A supervisor's host may have no rank but those that only hear of it."""

    def fails() -> None:
        raise error

    def work(world: World) -> Exception:
        try:
            return world.on_main(fails)
        except Exception as caught:
            return caught

    first, other = on_ranks(2, work)
    assert first is error
    assert (str(other), other.status) == ("Rank 0 stopped; see its message.", status)


def test_more_ranks_than_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(LopeError, match="more ranks than the 2 CUDA devices"):
        rank_device()


def test_only_the_first_rank_is_main() -> None:
    assert not World(1, 2, torch.device("cpu")).is_main


def test_a_deepspeed_world_of_one_needs_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _LAUNCHER:  # so that what start_world sets is undone afterwards
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    num_threads = torch.get_num_threads()
    world = start_world(EngineConfig(kind="deepspeed", timeout_s=30))
    try:
        assert (world.rank, world.size) == (0, 1)
        assert torch.distributed.is_initialized()
        assert world.sum([3.0]) == [3.0]
        torch.distributed.new_group([0])  # as DeepSpeed does
        be_patient(3600)
        groups = torch.distributed.distributed_c10d._world.pg_map
        backends = [group._get_backend(torch.device("cpu")) for group in groups]
        assert len(backends) == 2
        assert all(b.options._timeout > timedelta(hours=12) for b in backends), "a night's pause"
        for group, (_, store) in list(groups.items()):  # as a GPU's; NCCL's options are read alike
            groups[group] = ("nccl", store)
        be_patient(3600)
        assert {b.options._timeout for b in backends} == {timedelta(seconds=3615)}
    finally:
        world.close()
        torch.set_num_threads(num_threads)
    assert not torch.distributed.is_initialized()
