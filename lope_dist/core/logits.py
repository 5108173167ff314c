"""How many rows of logits exist at once, known to the loss and to the planner."""

from __future__ import annotations

_CHUNK_BYTES = 128 << 20
_SMALLEST = 64  # rows: fewer would starve the matrix product


def chunk_rows(vocabulary: int) -> int:
    """Return the target tokens whose logits the loss computes at once, float32."""
    return max(_SMALLEST, _CHUNK_BYTES // (4 * vocabulary))
