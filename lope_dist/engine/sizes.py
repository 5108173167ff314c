"""A model and a run in plain numbers, and what quantization makes of the weights.

Sources: QLoRA (arXiv 2305.14314, sections 2 and 3) for the quantized sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

from lope_dist.engine.activations import FLOAT32, Activations

BLOCK, NESTED_BLOCK = 64, 256
"""Weights to a scale, and scales to a scale of scales (QLoRA, section 3)."""


@dataclass(frozen=True)
class Sizes:
    """A model with its adapters, in numbers."""

    quantized: tuple[int, ...]
    """Weights of each NF4 parameter: a linear layer's, or a bank of experts."""
    plain: tuple[int, ...]
    """Elements of each other parameter of the base: embeddings, norms, head, biases."""
    itemsize: int
    """Bytes of an element of the base's dtype; packed weights are stored as this dtype too."""
    nested: bool
    """Whether the NF4 scales are quantized too."""
    input_only: int
    """Elements of the embedding that the backward pass does not need (0 where tied)."""
    active: int
    """Weights that a token is multiplied with: of banks of experts those that it is sent to."""
    active_in_layers: int
    """The same without the head."""
    in_layers: int
    """Bytes of the base inside the layers, which checkpointing computes twice."""
    adapter: int
    """Parameters of all adapters."""
    trainable: int
    """Those of the stage that trains most."""
    largest_adapter: int
    """Elements of the largest trainable parameter: smaller ones of the base stay resident."""
    vocabulary: int
    activations: Activations
    """What a forward pass keeps."""

    @property
    def base_bytes(self) -> int:
        """The whole base without statistics; bfloat16 embeddings cost 2 bytes a value."""
        return sum(map(packed_bytes, self.quantized)) + self.itemsize * sum(self.plain)

    @property
    def statistics(self) -> int:
        """Bytes of all layers' scales."""
        return sum(statistics_bytes(weights, self.nested) for weights in self.quantized)

    @property
    def nested_statistics(self) -> int:
        """Bytes of all layers' scales of scales."""
        return sum(_nested_bytes(weights, self.nested) for weights in self.quantized)

    @property
    def partitioned(self) -> list[int]:
        """Elements of the parameters that ZeRO-3 gathers for each use."""
        return [n for n in self._elements if n > self.largest_adapter]

    @property
    def resident(self) -> int:
        """Elements of those that stay resident: DeepSpeed gathers no small ones."""
        return sum(n for n in self._elements if n <= self.largest_adapter)

    @property
    def _elements(self) -> list[int]:
        """Each parameter's elements in the base's dtype, as ZeRO sees them."""
        return [packed_bytes(n) // self.itemsize for n in self.quantized] + list(self.plain)


@dataclass(frozen=True)
class Settings:
    """What the configuration and the command line say of the run."""

    world_size: int
    ranks_per_node: int
    global_batch: int
    micro_batch: int
    max_length: int
    checkpointing: bool
    prefetch_numel: int
    bucket_numel: int
    load_buffer: int
    """Bytes that the loader works in beside the share that it keeps."""
    shard: str
    """`engine.shard`: `world` or `node`."""

    @property
    def sharing(self) -> int:
        """Ranks that share one copy of the base under ZeRO-3."""
        return (
            min(self.ranks_per_node, self.world_size) if self.shard == "node" else self.world_size
        )


def packed_bytes(weights: int) -> int:
    """Return the bytes of NF4 weights: half a byte each."""
    return weights // 2


def statistics_bytes(weights: int, nested: bool) -> int:
    """Return the bytes of one NF4 layer's scales.

    A float32 for 64 weights; with double quantization an int8 for 64 weights and a float32
    for 256 of these, 16,384 weights (QLoRA, section 3: 0.127 bits a weight).
    """
    scales = -(-weights // BLOCK)
    return scales + _nested_bytes(weights, nested) if nested else scales * FLOAT32


def _nested_bytes(weights: int, nested: bool) -> int:
    """Return the bytes of the scales of scales, which every rank keeps whole."""
    return -(-weights // (BLOCK * NESTED_BLOCK)) * FLOAT32 if nested else 0
