"""Texts that all ranks tell each other; no pickle travels."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from lope_dist.engine.world import World


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
