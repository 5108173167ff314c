"""What a run will take of each rank's memory and of the wire, before anything is launched.

Pure arithmetic on plain numbers, for both ZeRO stages. Sources: QLoRA (arXiv 2305.14314,
sections 2 and 3) for the quantized sizes; ZeRO (arXiv 1910.02054, sections 5 and 7) for what
is divided by the ranks and what a collective moves; the rest is read off DeepSpeed's code and
compared with measurements in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

from lope_dist.engine.activations import (
    FLOAT32,
    Adapters,
    Block,
    activation_bytes,
    logits_bytes,
    working_bytes,
)

BLOCK, NESTED_BLOCK = 64, 256
"""Weights to a scale, and scales to a scale of scales (QLoRA, section 3)."""
LOAD_BUFFER_BYTES = 256 << 20
"""What the loader works in beside the share that it keeps (default)."""
PROCESS_BYTES = 2 << 30
"""Host memory of one rank without the model: the libraries (about 1 GiB measured) and what a
CUDA context maps (about as much again)."""


@dataclass(frozen=True)
class Sizes:
    """A model with its adapters, in numbers."""

    quantized: tuple[int, ...]
    """Weights of each NF4 layer."""
    plain: tuple[int, ...]
    """Elements of each other parameter of the base: embeddings, norms, head, biases."""
    itemsize: int
    """Bytes of an element of the base's dtype; packed weights are stored as this dtype too."""
    nested: bool
    """Whether the NF4 scales are quantized too."""
    input_only: int
    """Elements of the embedding that the backward pass does not need (0 where tied)."""
    in_layers: int
    """Bytes of the base inside the layers, which checkpointing computes twice."""
    adapter: int
    """Parameters of all adapters."""
    trainable: int
    """Those of the stage that trains most."""
    largest_adapter: int
    """Elements of the largest trainable parameter: smaller ones of the base stay resident."""
    vocabulary: int
    blocks: tuple[Block, ...]
    adapters: Adapters
    attention: str


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
    load_buffer: int = LOAD_BUFFER_BYTES


@dataclass(frozen=True)
class RankPlan:
    """One rank under one ZeRO stage; all in bytes."""

    base_weights: int
    statistics: int
    adapters: int
    gradients: int
    optimizer: int
    gathered: int
    """Weights gathered at once under ZeRO-3."""
    activations: int
    """As configured, with or without checkpointing."""
    activations_checkpointed: int
    activations_whole: int
    logits: int
    working: int
    total: int
    """Peak of a training step."""
    load_peak: int
    host_per_node: int
    """Where accelerators hold the model."""
    host_per_node_cpu: int
    """Where ranks compute on the CPU."""
    wire_base: int
    """The base's bytes that each rank receives in an optimizer step."""
    wire_adapters: int
    """The adapters' gradients and new values, likewise."""


def packed_bytes(weights: int) -> int:
    """Return the bytes of NF4 weights: half a byte each."""
    return weights // 2


def statistics_bytes(weights: int, nested: bool) -> int:
    """Return the bytes of one NF4 layer's scales.

    A float32 for 64 weights; with double quantization an int8 for 64 weights and a float32
    for 256 of these, 16,384 weights (QLoRA, section 3: 0.127 bits a weight).
    """
    scales = -(-weights // BLOCK)
    if not nested:
        return scales * FLOAT32
    return scales + -(-scales // NESTED_BLOCK) * FLOAT32


def base_bytes(sizes: Sizes) -> int:
    """Return the whole base's bytes without statistics; bfloat16 embeddings cost 2 a value."""
    return sum(map(packed_bytes, sizes.quantized)) + sizes.itemsize * sum(sizes.plain)


def all_statistics(sizes: Sizes) -> int:
    """Return the bytes of all layers' scales."""
    return sum(statistics_bytes(weights, sizes.nested) for weights in sizes.quantized)


def plan_rank(sizes: Sizes, run: Settings, zero_stage: int, rows: int) -> RankPlan:
    """Return one rank's memory and traffic with micro-batches of ``rows`` rows.

    * The base and its statistics are divided by the ranks under ZeRO-3, whole under ZeRO-2.
      Parameters no larger than an adapter's (the norms) stay resident under ZeRO-3 too.
    * Adapters are whole and float32 in both stages; under ZeRO-3 their partitions come on top.
    * Gradients: a share of what trains, in float32, and the bucket that collects them.
    * AdamW: two moments and DeepSpeed's own copy of the values, a float32 share each.
    """
    world, sharded = run.world_size, zero_stage == 3
    base, statistics = base_bytes(sizes), all_statistics(sizes)
    resident = _resident(sizes) * sizes.itemsize if sharded else 0
    trained = FLOAT32 * sizes.trainable
    adapters = FLOAT32 * sizes.adapter
    own_copy = _share(adapters, world) if sharded else 0
    shared = {
        "attention": sizes.attention,
        "itemsize": sizes.itemsize,
        "rows": rows,
        "length": run.max_length,
    }
    lean, whole = (
        activation_bytes(sizes.blocks, sizes.adapters, checkpointing=on, **shared)
        for on in (True, False)
    )
    largest = max(sizes.quantized, default=0)
    held = {
        "base_weights": (_share(base, world) if sharded else base) + resident,
        "statistics": _share(statistics, world) if sharded else statistics,
        "adapters": adapters + own_copy,
        "gradients": _share(trained, world) + FLOAT32 * run.bucket_numel,
        "optimizer": 3 * _share(trained, world),
        "gathered": gathered_bytes(sizes, run.prefetch_numel) if sharded and world > 1 else 0,
        "activations": lean if run.checkpointing else whole,
        "logits": logits_bytes(rows, run.max_length, sizes.vocabulary, sizes.itemsize),
        "working": working_bytes(
            sizes.blocks, largest, itemsize=sizes.itemsize, rows=rows, length=run.max_length
        ),
    }
    total = sum(held.values())
    load_peak = held["base_weights"] + held["statistics"] + run.load_buffer
    local = min(run.ranks_per_node, world)
    steps = accumulation(run, rows)
    return RankPlan(
        **held,
        activations_checkpointed=lean,
        activations_whole=whole,
        total=total,
        load_peak=load_peak,
        host_per_node=local * (PROCESS_BYTES + run.load_buffer),
        host_per_node_cpu=local * (PROCESS_BYTES + max(total, load_peak)),
        wire_base=steps * _gathers_bytes(sizes, run) if sharded else 0,
        wire_adapters=_adapter_wire(sizes, world, steps, sharded),
    )


def gathered_bytes(sizes: Sizes, prefetch_numel: int) -> int:
    """Return the bytes of base weights that a rank holds gathered at once under ZeRO-3.

    DeepSpeed gathers a layer when it is needed and others ahead of it until they reach
    ``prefetch_numel`` elements, so at most these and the one that crosses the mark; never
    more than there are. Statistics are left out: they are 3 % of the weights.
    """
    numels = _partitioned(sizes)
    return sizes.itemsize * min(sum(numels), prefetch_numel + max(numels, default=0))


def accumulation(run: Settings, rows: int) -> int:
    """Return the micro-batches of an optimizer step on each rank.

    An upper bound with packing, where several examples share a row.
    """
    return -(-rows_per_rank(run) // rows)


def rows_per_rank(run: Settings) -> int:
    """Return the rows of the global batch that a rank has at most."""
    return -(-run.global_batch // run.world_size)


def _gathers_bytes(sizes: Sizes, run: Settings) -> int:
    """Return the base's bytes that a rank receives in one micro-batch under ZeRO-3.

    One all-gather in the forward pass and one in the backward pass, without the embedding,
    whose weights no gradient needs; checkpointing gathers the layers once more to compute
    them again. Of each all-gather a rank has its own part already (ZeRO, section 7).
    """
    numel = sum(_partitioned(sizes))
    forward = sizes.itemsize * numel + all_statistics(sizes)
    backward = forward - sizes.itemsize * sizes.input_only
    again = sizes.in_layers + all_statistics(sizes) if run.checkpointing else 0
    return _received(forward + backward + again, run.world_size)


def _adapter_wire(sizes: Sizes, world: int, steps: int, sharded: bool) -> int:
    """Return the adapters' bytes that a rank receives in an optimizer step.

    Each micro-batch's gradients: a reduce-scatter under ZeRO-3, an all-reduce, twice as
    much, in DeepSpeed's ZeRO-2. Then the new values: an all-gather of what trains under
    ZeRO-2, of everything resident under ZeRO-3.
    """
    gradients = FLOAT32 * sizes.trainable * steps * (1 if sharded else 2)
    values = FLOAT32 * (sizes.adapter if sharded else sizes.trainable)
    if sharded:
        values += sizes.itemsize * _resident(sizes)
    return _received(gradients + values, world)


def _elements(sizes: Sizes) -> list[int]:
    """Return each parameter's elements in the base's dtype, as ZeRO sees them."""
    return [packed_bytes(n) // sizes.itemsize for n in sizes.quantized] + list(sizes.plain)


def _partitioned(sizes: Sizes) -> list[int]:
    return [n for n in _elements(sizes) if n > sizes.largest_adapter]


def _resident(sizes: Sizes) -> int:
    return sum(n for n in _elements(sizes) if n <= sizes.largest_adapter)


def _share(size: int, world: int) -> int:
    return -(-size // world)


def _received(size: int, world: int) -> int:
    return size * (world - 1) // world
