"""What ranks tell each other, and what is refused where they differ."""

from __future__ import annotations

import socket

import pytest
from support.thread_ranks import on_ranks, refusals

from lope_dist.engine.exchange import exchange, refuse_unlike

HOST = socket.gethostname()


def test_texts_of_any_length_come_in_order_of_rank() -> None:
    texts = ["", "Räksmörgås", "x" * 1000]
    assert on_ranks(3, lambda world: exchange(texts[world.rank], world)) == [texts] * 3


def test_ranks_that_have_the_same_go_on() -> None:
    parts = {"a": 1.5, "rows": ["x", 3], "nothing": None}
    assert on_ranks(3, lambda world: refuse_unlike(parts, world, "mend it")) == [None] * 3
    refuse_unlike(parts, None, "mend it")


def test_all_ranks_are_told_the_first_that_differs_and_in_what() -> None:
    def work(world):
        lr = 0.1 if world.rank < 2 else 0.2
        refuse_unlike({"lr": lr, "same": 1, "x": "a" * (99 + world.rank)}, world, "mend it")

    (told,) = refusals(4, work)
    assert told.startswith(f"Rank 1 (on {HOST}) differs from rank 0 (on {HOST}) in x (")
    assert "lr" not in told
    assert f"2 more on {HOST}; mend it." in told


@pytest.mark.parametrize("odd", [1, 2])
def test_a_part_that_one_rank_lacks_is_named(odd: int) -> None:
    (told,) = refusals(
        3, lambda world: refuse_unlike({"v": 1} if world.rank != odd else {}, world, "mend it")
    )
    assert f"Rank {odd} " in told
    assert "v (null, there 1)" in told
