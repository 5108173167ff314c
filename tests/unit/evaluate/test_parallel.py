"""Requests are dealt whole, and answers come back in their places."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lope_dist.engine.world import World
from lope_dist.evaluate import parallel
from lope_dist.evaluate.parallel import answer_together, deal


@dataclass(frozen=True)
class Request:
    """What of lm-eval's instances is looked at."""

    task_name: str
    doc_id: int
    args: tuple[str, ...]


REQUESTS = st.lists(
    st.builds(Request, st.sampled_from("ab"), st.integers(0, 9), st.tuples(st.text(max_size=30))),
    max_size=40,
)


@given(REQUESTS, st.integers(1, 5))
def test_each_request_has_one_rank_and_a_document_is_not_split(
    requests: list[Request], num_ranks: int
) -> None:
    shares = deal(requests, num_ranks)
    assert sorted(i for share in shares for i in share) == list(range(len(requests)))
    owner = {i: rank for rank, share in enumerate(shares) for i in share}
    documents: dict[tuple[str, int], set[int]] = {}
    for i, request in enumerate(requests):
        documents.setdefault((request.task_name, request.doc_id), set()).add(owner[i])
    assert all(len(ranks) == 1 for ranks in documents.values())


def test_shares_have_about_the_same_text() -> None:
    requests = [Request("t", i, ("x" * (i + 1),)) for i in range(64)]
    sizes = [sum(len(requests[i].args[0]) for i in share) for share in deal(requests, 4)]
    assert max(sizes) <= 1.02 * min(sizes)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
def test_all_ranks_get_all_answers_in_order(
    monkeypatch: pytest.MonkeyPatch, num_ranks: int
) -> None:
    requests = [Request("t", i // 3, (f"text {i}" * (i % 5),)) for i in range(20)]
    expected = [(-1.1 / (i + 3), i % 2 == 0) for i in range(20)]
    told: list[str] = []

    def answer(own: list[Request]) -> list[tuple[float, bool]]:
        return [expected[requests.index(request)] for request in own]

    # What each rank would say, first; then every rank receives all of it.
    monkeypatch.setattr(parallel, "exchange", lambda text, world: told.append(text) or told * 0)
    for rank in range(num_ranks):
        with pytest.raises(ValueError, match="zip"):
            answer_together(World(rank, num_ranks, torch.device("cpu")), requests, answer)
    monkeypatch.setattr(parallel, "exchange", lambda text, world: told)
    for rank in range(num_ranks):
        world = World(rank, num_ranks, torch.device("cpu"))
        assert answer_together(world, requests, answer) == expected
