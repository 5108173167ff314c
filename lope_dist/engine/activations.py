"""What autograd keeps of a forward pass, in bytes, from the shapes of the model's blocks.

Pure arithmetic. The base is frozen, so its linear layers keep nothing for the backward pass;
kept are the inputs of what is not linear, and of the adapters. The terms were read off
`torch.autograd.graph.saved_tensors_hooks`, which the tests compare them with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lope_dist.core.logits import chunk_rows

FLOAT32 = 4


@dataclass(frozen=True)
class Adapters:
    """The adapters' shape, the same in every layer."""

    rank: int
    num_experts: int
    has_router: bool
    router_reads_rank: bool
    """Whether the router reads `A x`, and not the layer's input."""


@dataclass(frozen=True)
class Block:
    """One kind of transformer layer, with pre-norm attention and an MLP.

    Widths are values a token.
    """

    count: int
    """How many such layers the model has."""
    hidden: int
    """Width of the residual stream."""
    norms: int
    """Width of all normalised vectors of a layer together (2 hidden in a Llama)."""
    norm_keeps_input: bool
    """Whether a norm keeps its input beside the float32 copy of it (T5)."""
    attentions: int
    """Attentions of a layer (2 in the decoder of an encoder-decoder)."""
    heads: int
    query: int
    """Width of an attention's queries."""
    key: int
    """Width of its keys, less than ``query`` with grouped queries."""
    mlp_inner: int
    """Width of the MLP's inner vectors."""
    mlp_kept: int
    """How many of them are kept: gate, its activation and up (3) with a gate, else 1."""
    bias_heads: int
    """Heads that have a mask of their own: 1, or all with a relative position bias (T5)."""
    adapters: int
    """Adapted linear layers of a layer."""
    adapter_inputs: int
    """Width of their inputs together, those that several share counted once."""


def block_token_bytes(
    block: Block, adapters: Adapters, attention: str, itemsize: int, length: int
) -> int:
    """Return the bytes that one layer keeps of one token of a row of ``length`` tokens.

    * A norm computes in float32 and keeps its input so: 4 a value, and one scale a token.
    * `sdpa` keeps queries, keys, values, output, a float32 log-sum a head and its mask as a
      bias in the model's dtype, one row of it a token; with a mask, transformers repeats
      grouped keys and values to the queries' width. `flash_attention_2` has no such mask and
      keeps keys and values as they are. `eager` keeps queries, keys, values and the
      probabilities, in float32 and again in the model's dtype where that is another.
    * A gated MLP keeps gate, activated gate and up.
    * Adapters keep their inputs; each one `h = A x` in float32 (for the router, and for
      `w h`), the router's weights in float32 and `z` of rank times experts.
    """
    norms = _norm_value_bytes(block, itemsize) * block.norms + 2 * FLOAT32
    if attention == "eager":
        probabilities = FLOAT32 + (itemsize if itemsize != FLOAT32 else 0)
        attended = 3 * itemsize * block.query + probabilities * block.heads * length
    elif attention == "flash_attention_2":
        attended = itemsize * (2 * block.query + 2 * block.key) + FLOAT32 * block.heads
    else:
        attended = itemsize * (4 * block.query + block.bias_heads * length)
        attended += FLOAT32 * block.heads
    mlp = itemsize * block.mlp_kept * block.mlp_inner
    own = itemsize * block.adapter_inputs + block.adapters * _adapter_token_bytes(
        adapters, itemsize
    )
    return norms + block.attentions * attended + mlp + own


def _norm_value_bytes(block: Block, itemsize: int) -> int:
    return FLOAT32 + (itemsize if block.norm_keeps_input and itemsize != FLOAT32 else 0)


def _adapter_token_bytes(adapters: Adapters, itemsize: int) -> int:
    z = itemsize * adapters.rank * adapters.num_experts
    if not adapters.has_router:
        return z
    copies = 2 if adapters.router_reads_rank and itemsize != FLOAT32 else 1
    return z + FLOAT32 * (copies * adapters.rank + adapters.num_experts)


def activation_bytes(
    blocks: Sequence[Block],
    adapters: Adapters,
    *,
    attention: str,
    itemsize: int,
    rows: int,
    length: int,
    checkpointing: bool,
) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, without the logits.

    With checkpointing each layer keeps its input alone; while a layer is computed again, its
    own tensors are there too, those of the largest layer at the peak. A stack's last norm is
    kept either way, and so is a position bias that the layers of a stack share.
    """
    tokens = rows * length
    whole = [
        tokens * block_token_bytes(block, adapters, attention, itemsize, length) for block in blocks
    ]
    last_norms = sum(
        tokens * (_norm_value_bytes(block, itemsize) * block.hidden + FLOAT32) for block in blocks
    )
    if not checkpointing:
        return last_norms + sum(b.count * size for b, size in zip(blocks, whole, strict=True))
    inputs = sum(tokens * itemsize * block.hidden * block.count for block in blocks)
    shared = sum(
        tokens * itemsize * block.bias_heads * length for block in blocks if block.bias_heads > 1
    )
    return last_norms + inputs + shared + max(whole)


def logits_bytes(rows: int, length: int, vocabulary: int, itemsize: int) -> int:
    """Return the bytes of the logits while the loss is computed, a chunk of targets at a time.

    A chunk in the model's dtype, its float32 copy and its gradient.
    """
    return min(rows * length, chunk_rows(vocabulary)) * vocabulary * (2 * itemsize + FLOAT32)


def working_bytes(
    blocks: Sequence[Block], largest_weight: int, *, itemsize: int, rows: int, length: int
) -> int:
    """Return the bytes of short-lived tensors at the worst moment.

    The largest quantized weight, unpacked for its product, and the gradients that the
    backward pass of an MLP holds at once (of gate, up, their product and one more).
    """
    widest = max(max(block.mlp_inner, block.hidden) for block in blocks)
    return itemsize * (largest_weight + 4 * rows * length * widest)
