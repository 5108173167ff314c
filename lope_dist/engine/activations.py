"""What autograd keeps of a forward pass, in bytes, for any rows and lengths.

Pure arithmetic on what was seen of rows of three lengths (`train/premises/saved_tensors.py`): what
a model keeps of a row grows with its tokens, and where attention keeps a mask or its probabilities
also with their square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lope_dist.core.logits import chunk_rows

FLOAT32 = 4


@dataclass(frozen=True)
class Curve:
    """Bytes of one row: `constant + linear * length + quadratic * length ** 2`."""

    constant: float = 0.0
    linear: float = 0.0
    quadratic: float = 0.0

    @classmethod
    def through(cls, step: int, sizes: Sequence[int]) -> Curve:
        """Return the curve through three sizes, of rows of one, two and three times ``step``."""
        first, second, third = sizes
        quadratic = (third - 2 * second + first) / (2 * step * step)
        linear = (second - first) / step - 3 * quadratic * step
        return cls(first - linear * step - quadratic * step * step, linear, quadratic)

    def at(self, length: int) -> int:
        """Return the bytes of a row of ``length`` tokens."""
        return round(self.constant + self.linear * length + self.quadratic * length * length)


@dataclass(frozen=True)
class Activations:
    """What is kept of one row of a model with its adapters."""

    outside: Curve
    """Outside the layers: a stack's last norm, a position bias that all layers share, logits that
    the model caps."""
    inputs: Curve
    """The layers' inputs, which recomputation keeps in place of what is inside."""
    layers: tuple[Curve, ...]
    """Inside each layer."""
    widest: int
    """Values a token of the widest vector inside a layer."""
    chunk: int = 1
    """Tokens that layers compute at once: they fill a row up to a multiple of it."""
    bound: str | None = None
    """Why these figures are no more than an upper bound, where they are."""

    def kept(self, *, rows: int, length: int, checkpointing: bool) -> int:
        """Return the bytes that a forward pass keeps for the backward pass.

        With checkpointing each layer keeps its input alone; while a layer is computed again, its
        own tensors are there too, those of the largest layer at the peak.
        """
        length = -(-length // self.chunk) * self.chunk
        inside = [layer.at(length) for layer in self.layers]
        if not checkpointing:
            return rows * (self.outside.at(length) + sum(inside))
        return rows * (self.outside.at(length) + self.inputs.at(length) + max(inside, default=0))


def logits_bytes(rows: int, length: int, vocabulary: int, itemsize: int) -> int:
    """Return the bytes of the logits while the loss is computed, a chunk of targets at a time.

    A chunk in the model's dtype, its float32 copy and its gradient.
    """
    return min(rows * length, chunk_rows(vocabulary)) * vocabulary * (2 * itemsize + FLOAT32)


def working_bytes(widest: int, largest_weight: int, *, itemsize: int, tokens: int) -> int:
    """Return the bytes of short-lived tensors at the worst moment.

    The largest quantized weight, unpacked for its product, and the gradients that the
    backward pass of an MLP holds at once (of gate, up, their product and one more).
    """
    return itemsize * (largest_weight + 4 * tokens * widest)
