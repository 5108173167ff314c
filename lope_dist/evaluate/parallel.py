"""Requests of one evaluation, shared out among ranks that each hold the whole model.

Every rank builds all requests, as one process would: few-shot examples are drawn one after
another, and would be others if each rank drew for its own documents alone. It answers its share,
the answers are exchanged, and every rank computes the scores from all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from lope_dist.engine.exchange import exchange
from lope_dist.engine.world import World


def answer_together(
    world: World, requests: Sequence[Any], answer: Callable[[list[Any]], list[Any]]
) -> list[Any]:
    """Return the answers to all requests, each given by one of the ranks.

    Requests of one document stay together, for lm-eval reuses their common context.

    Collective: yes; every rank passes the same requests.
    """
    shares = deal(requests, world.size)
    own = shares[world.rank]
    given = answer([requests[i] for i in own]) if own else []
    answers: list[Any] = [None] * len(requests)
    for share, text in zip(shares, exchange(json.dumps(given), world), strict=True):
        for index, value in zip(share, json.loads(text), strict=True):
            answers[index] = tuple(value) if isinstance(value, list) else value
    return answers


def deal(requests: Sequence[Any], num_ranks: int) -> list[list[int]]:
    """Return the positions of each rank's requests, about as much text for each."""
    documents: dict[Any, list[int]] = {}
    for index, request in enumerate(requests):
        documents.setdefault((request.task_name, request.doc_id), []).append(index)
    sizes = {
        key: sum(len(str(requests[i].args)) for i in indices) for key, indices in documents.items()
    }
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    for place, key in enumerate(sorted(documents, key=lambda k: -sizes[k])):
        lap, seat = divmod(place, num_ranks)
        # There and back again, so that no rank gets the longer one of every lap.
        shares[seat if lap % 2 == 0 else num_ranks - 1 - seat].extend(documents[key])
    return shares
