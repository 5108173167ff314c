"""Texts that all ranks tell each other; no pickle travels."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lope_dist.core.errors import LopeError
from lope_dist.engine.world import World

_MOST_NAMED, _LONGEST = 4, 48


def exchange(text: str, world: World) -> list[str]:
    """Return every rank's text, in order of rank. Collective: yes."""
    if world.size == 1:
        return [text]
    encoded = torch.tensor(list(text.encode()), dtype=torch.uint8, device=world.device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=world.device) for _ in range(world.size)]
    dist.all_gather(sizes, torch.tensor([encoded.numel()], device=world.device))
    longest = max(int(size) for size in sizes)
    parts: list[Tensor] = [encoded.new_empty(longest) for _ in range(world.size)]
    dist.all_gather(parts, torch.nn.functional.pad(encoded, (0, longest - encoded.numel())))
    return [
        bytes(part[: int(size)].cpu().numpy()).decode()
        for part, size in zip(parts, sizes, strict=True)
    ]


def refuse_unlike(parts: Mapping[str, Any], world: World | None, remedy: str) -> None:
    """Refuse ranks of which one has something else than rank 0.

    Args:
        parts: Name of what must be the same -> what JSON can hold; of what is long, a hash.
        world: The ranks; None: this process alone.
        remedy: How to mend it; the end of the sentence.

    Collective: yes, with a world.

    Raises:
        LopeError: on every rank; names parts, ranks and hosts.
    """
    if world is None:
        return
    told = [json.loads(each) for each in exchange(json.dumps([socket.gethostname(), parts]), world)]
    host, expected = told[0]
    odd = [rank for rank, (_, theirs) in enumerate(told) if theirs != expected]
    if not odd:
        return
    _, theirs = told[odd[0]]
    names = [n for n in {**expected, **theirs} if theirs.get(n) != expected.get(n)]
    differences = [
        f"{name} ({_short(theirs.get(name))}, there {_short(expected.get(name))})"
        for name in names[:_MOST_NAMED]
    ]
    hosts = list(dict.fromkeys(told[rank][0] for rank in odd))[:_MOST_NAMED]
    rank = f"Rank {odd[0]} (on {told[odd[0]][0]})"
    others = f", and so do {len(odd) - 1} more on {', '.join(hosts)}" if len(odd) > 1 else ""
    raise LopeError(
        f"{rank} differs from rank 0 (on {host}) in {', '.join(differences)}{others}; {remedy}."
    )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
