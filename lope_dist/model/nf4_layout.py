"""How one NF4 weight lies in memory: packed weights, then their scales, in one parameter.

    bytes  |  packed: numel / 2  |  scales: numel / 64, one byte (nested) or four each  | pad |

One parameter, so that ZeRO-3 shards and gathers the scales with the weights, in the same
collective; kept apart, the scales would be on every rank, 1/32 of the whole packed model.
The parameter's elements are of the storage dtype; the padding completes the last one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

BLOCK = 64
"""Weights that share one scale (QLoRA, section 3)."""
BLOCK_BYTES = BLOCK // 2
"""Bytes of a block's packed weights."""


@dataclass(frozen=True)
class PackedLayout:
    """The layout of one layer's weight.

    Attributes:
        numel: Weights, a multiple of 64.
        storage: Dtype of the parameter that holds the bytes.
        nested: Whether the scales are themselves quantized to a byte (double quantization).
    """

    numel: int
    storage: torch.dtype
    nested: bool

    @property
    def num_blocks(self) -> int:
        """Blocks of 64 weights, each with a scale."""
        return self.numel // BLOCK

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed weights."""
        return self.numel // 2

    @property
    def scale_bytes(self) -> int:
        """Bytes of the scales."""
        return self.num_blocks * (1 if self.nested else 4)

    @property
    def num_elements(self) -> int:
        """Elements of the parameter."""
        return -(-(self.packed_bytes + self.scale_bytes) // self.storage.itemsize)

    def packed_range(self, start: int, stop: int) -> tuple[int, int]:
        """Return which packed bytes lie in elements [start, stop) of the parameter."""
        return self._cut(start, 0, self.packed_bytes), self._cut(stop, 0, self.packed_bytes)

    def scale_range(self, start: int, stop: int) -> tuple[int, int]:
        """Return which bytes of the scales lie in elements [start, stop) of the parameter."""
        first, size = self.packed_bytes, self.scale_bytes
        return self._cut(start, first, size), self._cut(stop, first, size)

    def block_range(self, start: int, stop: int) -> tuple[int, int]:
        """Return the blocks that elements [start, stop) hold packed weights of, even if in part."""
        first, last = self.packed_range(start, stop)
        if first == last:
            return first // BLOCK_BYTES, first // BLOCK_BYTES
        return first // BLOCK_BYTES, -(-last // BLOCK_BYTES)

    def _cut(self, element: int, first_byte: int, size: int) -> int:
        return min(max(element * self.storage.itemsize - first_byte, 0), size)
