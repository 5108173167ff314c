"""A matrix that ZeRO-3 partitions, some rows at a time.

The embedding and the output head are the largest matrices that are not quantized: 2.1 GB each of
Llama-3-70B, where a layer in NF4 takes 0.44 GB. A lookup needs a few rows of the one, and each row
of the other gives logits by itself. So neither is whole on a rank that answers.

Shapes: V rows, D width, N tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn

ROWS_BYTES = 32 << 20
"""Of the rows that a rank holds at once."""
_MULTIPLE = 64  # rows: a product of fewer would starve a matrix kernel


class SpreadRows:
    """The rows of a partitioned matrix, gathered anew for each iteration over them.

    Each step yields the number of the first row and the rows, (n, D), in a buffer that the next
    step overwrites. Collective: yes; all ranks take all steps.
    """

    def __init__(self, weight: Any) -> None:
        self._weight = weight

    @property
    def firsts(self) -> range:
        """The first row of each step."""
        num_rows, width = self._weight.ds_shape
        step = _rows_at_once(num_rows, width, self._weight.ds_tensor.element_size())
        return range(0, num_rows, step)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        num_rows, width = self._weight.ds_shape
        firsts = self.firsts
        buffer = self._empty(firsts.step * width)
        for first in firsts:
            piece = buffer[: (min(first + firsts.step, num_rows) - first) * width]
            self._fill(piece, first * width)
            yield first, piece.view(-1, width)

    def whole(self) -> Tensor:
        """Return all rows, (V, D). Collective: yes; the same messages as those of the steps."""
        num_rows, width = self._weight.ds_shape
        flat = self._empty(num_rows * width)
        for first in self.firsts:
            self._fill(flat[first * width : (first + self.firsts.step) * width], first * width)
        return flat.view(num_rows, width)

    def _empty(self, size: int) -> Tensor:
        return self._weight.ds_tensor.new_empty(size, device=self._weight.device)

    def _fill(self, piece: Tensor, start: int) -> None:
        """Fill a piece of the flat matrix from the ranks that hold it. Collective: yes."""
        part, group = self._weight.ds_tensor, self._weight.ds_process_group
        size, stop = part.numel(), start + piece.numel()
        for source in range(dist.get_world_size(group)):
            first, last = max(start, source * size), min(stop, (source + 1) * size)
            if first >= last:
                continue
            share = piece[first - start : last - start]
            if source == dist.get_rank(group):
                share.copy_(part[first - source * size : last - source * size])
            dist.broadcast(share, group=group, group_src=source)


@runtime_checkable
class TakesRows(Protocol):
    """A linear layer that can compute its output from rows of its weight in turn."""

    rows: SpreadRows | None
    """In place of `weight` while it is set."""

    @property
    def takes_rows(self) -> bool:
        """Whether the next forward pass can compute from `rows`."""
        ...


def _rows_at_once(num_rows: int, width: int, itemsize: int) -> int:
    """Return how many rows of a (V, D) matrix a rank gathers at once."""
    step = ROWS_BYTES // (width * itemsize) // _MULTIPLE * _MULTIPLE
    return min(num_rows, max(_MULTIPLE, step))


def is_by_rows(module: nn.Module) -> bool:
    """Return whether a module outside the layers can be answered by rows of its weight.

    An embedding whose forward pass is PyTorch's, or a `TakesRows`; either with nothing else.
    """
    if [name for name, _ in module.named_parameters()] != ["weight"]:
        return False
    if isinstance(module, nn.Embedding):
        return type(module).forward is nn.Embedding.forward and module.max_norm is None
    return isinstance(module, TakesRows)


def looked_up(ids: Tensor, rows: SpreadRows) -> tuple[Tensor, Tensor]:
    """Return the rows that ``ids`` name, (n, D), each once, and ids that count within them.

    Shapes: ids and the result's ids (N,) or of any shape.

    Collective: yes.
    """
    unique_ids, within = ids.unique(return_inverse=True)
    borders = torch.tensor([*rows.firsts[1:]], device=unique_ids.device, dtype=unique_ids.dtype)
    counts = torch.searchsorted(unique_ids, borders).tolist()
    pairs = zip([0, *counts], [*counts, len(unique_ids)], strict=True)
    taken = [
        piece[unique_ids[start:stop] - first]
        for (first, piece), (start, stop) in zip(rows, pairs, strict=True)
    ]
    return torch.cat(taken), within
