"""Batches are those of one process, are dealt whole, and answers come back in their places."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.models.utils import Collator

from lope_dist.engine.world import World
from lope_dist.evaluate.harness.batching import likelihood_batches, text_batches
from lope_dist.evaluate.loaded import parallel
from lope_dist.evaluate.loaded.parallel import answer_batches

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=6)
ENCODED = st.lists(st.tuples(st.just("asked"), TOKENS, TOKENS), min_size=1, max_size=30)


@given(ENCODED, st.integers(1, 5), st.booleans())
def test_batches_of_likelihoods_are_those_that_lm_eval_forms(
    requests: list[Any], size: int, shares_rows: bool
) -> None:
    theirs = Collator(
        list(enumerate(requests)),
        sort_fn=lambda r: (-len(r[1][1] + r[1][2]), tuple(r[1][1] + r[1][2])),
        group_by="contexts" if shares_rows else None,
        group_fn=lambda r: tuple(r[1][1] + r[1][2][:-1]),
    )
    ours = likelihood_batches(requests, size, shares_rows=shares_rows)
    assert sorted(i for batch in ours for i in batch) == list(range(len(requests)))

    def rows(batch: list[int]) -> list[tuple[int, ...]]:
        """What a forward pass reads."""
        read = [tuple(requests[i][1] + requests[i][2][:-1]) for i in batch]
        return sorted(set(read) if shares_rows else read)

    def read(request: Any) -> tuple[int, ...]:
        return tuple(request[1] + request[2][:-1])

    expected = [sorted(read(r) for _, r in chunk) for chunk in theirs.get_batched(n=size)]
    assert [rows(batch) for batch in ours] == expected


def test_batches_of_texts_keep_settings_apart_and_fill_a_pass_with_tokens() -> None:
    lengths = [3000, 10, 2000, 2048, 11, 12]
    settings = [{"a": 1}, {"a": 2}, {"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}]
    found = text_batches(lengths, list("abcdef"), settings, "auto")
    assert found == [[0], [3, 2], [5, 4, 1]]
    assert text_batches(lengths, list("abcdef"), settings, 2) == [[0, 3], [2], [5, 4], [1]]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
def test_all_ranks_get_all_answers_in_order(
    monkeypatch: pytest.MonkeyPatch, num_ranks: int
) -> None:
    batches = [[i, i + 1] for i in range(0, 20, 2)]

    def run(rank: int) -> Any:
        world = World(rank, num_ranks, torch.device("cpu"))
        return SimpleNamespace(world=world, together=nullcontext)

    def ask(rank: int) -> list[Any]:
        def answer(batch: list[int]) -> list[float]:
            return [-1.1 / (i + 3) for i in batch]

        return answer_batches(run(rank), batches, answer, title="", progress=False)

    told: list[str] = []
    # What each rank would say, first; then every rank receives all of it.
    monkeypatch.setattr(parallel, "exchange", lambda text, world: told.append(text) or [])
    for rank in range(num_ranks):
        ask(rank)
    assert sum(text.count("[") - 1 for text in told) == len(batches), "each batch by one rank"
    monkeypatch.setattr(parallel, "exchange", lambda text, world: told)
    for rank in range(num_ranks):
        assert ask(rank) == [[-1.1 / (i + 3) for i in batch] for batch in batches]
