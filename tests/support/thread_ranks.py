"""Ranks as threads of one process: what they tell each other is quick to test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed as dist

from lope_dist.core.errors import LopeError
from lope_dist.engine.world import World

_WAIT_S = 20.0


def on_ranks(num_ranks: int, work: Callable[[World], Any]) -> list[Any]:
    """Return what each rank made of its world, or the `LopeError` that it ended with.

    Raises:
        threading.BrokenBarrierError: a rank waits for others that do not come.
    """
    barrier = threading.Barrier(num_ranks, timeout=_WAIT_S)
    tensors: list[Any] = [None] * num_ranks
    this = threading.local()

    def shared(tensor: torch.Tensor) -> list[torch.Tensor]:
        tensors[this.rank] = tensor.clone()
        barrier.wait()
        all_of_them = list(tensors)
        barrier.wait()
        return all_of_them

    def all_gather(outputs: list[torch.Tensor], tensor: torch.Tensor) -> None:
        for output, each in zip(outputs, shared(tensor), strict=True):
            output.copy_(each)

    def all_reduce(tensor: torch.Tensor, op: Any) -> None:
        stacked = torch.stack(shared(tensor))
        tensor.copy_(stacked.sum(0) if op == dist.ReduceOp.SUM else stacked.amax(0))

    def one_rank(rank: int) -> Any:
        this.rank = rank
        try:
            return work(World(rank, num_ranks, torch.device("cpu")))
        except LopeError as error:
            return error
        except BaseException:
            barrier.abort()
            raise

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(num_ranks) as pool:
        patch.setattr(dist, "all_gather", all_gather)
        patch.setattr(dist, "all_reduce", all_reduce)
        return list(pool.map(one_rank, range(num_ranks)))


def refusals(num_ranks: int, work: Callable[[World], Any]) -> set[str]:
    """Return the sentences of ranks that are all refused."""
    ended = on_ranks(num_ranks, work)
    assert all(isinstance(each, LopeError) and each.status == 2 for each in ended), ended
    return {str(each) for each in ended}
