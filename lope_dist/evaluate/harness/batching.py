"""Which requests share a forward pass: the same ones whoever answers them.

The batches are those that lm-eval's `HFLM` forms of all requests in one process: sorted by length,
the longest first, with requests that differ in their last token alone answered by one row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lope_dist.core.errors import LopeError
from lope_dist.evaluate.loaded.sizing import TOKENS_AT_ONCE

Encoded = tuple[Any, list[int], list[int]]
"""A request as lm-eval encodes it: what was asked, tokens of context and of continuation."""


def likelihood_batches(
    requests: Sequence[Encoded], size: int | str, *, shares_rows: bool
) -> list[list[int]]:
    """Return the positions of each batch's requests.

    Args:
        requests: All of them.
        size: Rows of a batch, or `auto`: as many as make `TOKENS_AT_ONCE`.
        shares_rows: Requests that differ in their last token alone are one row.
    """
    rows: dict[Any, list[int]] = {}
    for index, (_, context, continuation) in enumerate(requests):
        read = tuple(context + continuation[:-1])
        rows.setdefault(read if shares_rows else index, []).append(index)

    def order(members: list[int]) -> tuple[int, tuple[int, ...]]:
        _, context, continuation = requests[max(members, key=lambda i: len(requests[i][2]))]
        return -len(context) - len(continuation), tuple(context + continuation)

    ordered = sorted(rows.values(), key=order)
    lengths = [-order(members)[0] for members in ordered]
    return [
        sorted(index for members in ordered[start:stop] for index in members)
        for start, stop in _cut(lengths, size)
    ]


def text_batches(
    lengths: Sequence[int], texts: Sequence[str], settings: Sequence[Any], size: int | str
) -> list[list[int]]:
    """Return the positions of each batch's texts; those of a batch have the same settings.

    Args:
        lengths: Tokens that each takes at most.
        texts: Each text.
        settings: JSON-able.
        size: As for `likelihood_batches`.
    """
    groups: dict[str, list[int]] = {}
    for index, value in enumerate(settings):
        groups.setdefault(json.dumps(value, sort_keys=True, default=str), []).append(index)
    batches = []
    for members in groups.values():
        ordered = sorted(members, key=lambda i: (-lengths[i], texts[i]))
        for start, stop in _cut([lengths[i] for i in ordered], size):
            batches.append(ordered[start:stop])
    return sorted(batches, key=lambda batch: -lengths[batch[0]])


def read_batch_size(text: str) -> int | str:
    """Read `--batch-size`.

    Raises:
        LopeError: neither `auto` nor a whole number from 1.
    """
    if text == "auto":
        return text
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise LopeError(f"--batch-size: '{text}' must be a whole number from 1, or auto.")
    return int(text)


def _cut(lengths: Sequence[int], size: int | str) -> list[tuple[int, int]]:
    """Return where to cut rows whose lengths fall into batches."""
    cuts, start = [], 0
    while start < len(lengths):
        count = max(1, TOKENS_AT_ONCE // lengths[start]) if size == "auto" else int(size)
        cuts.append((start, min(start + count, len(lengths))))
        start += count
    return cuts
