"""What a run will take of each rank's memory and of the wire, before anything is launched.

Pure arithmetic on plain numbers, for both ZeRO stages. Sources: ZeRO (arXiv 1910.02054,
sections 5 and 7) for what is divided by the ranks and what a collective moves; the rest is
read off DeepSpeed's code and compared with measurements in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

from lope_dist.engine.activations import FLOAT32, logits_bytes, working_bytes
from lope_dist.engine.sizes import Settings, Sizes

PROCESS_BYTES = 2 << 30
"""Host memory of one rank without the model: the libraries (0.5 GiB measured) and what a CUDA
context maps (1 to 1.5 GiB, an estimate)."""


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


def plan_rank(sizes: Sizes, run: Settings, zero_stage: int, rows: int) -> RankPlan:
    """Return one rank's memory and traffic with micro-batches of ``rows`` rows.

    * The base and its statistics are divided by the ranks that share it under ZeRO-3, whole under
      ZeRO-2;
      the scales of scales (a hundredth of the statistics' 3 %) are whole in both.
      Parameters no larger than an adapter's (the norms) stay resident under ZeRO-3 too.
    * Adapters are whole and float32 in both stages; under ZeRO-3 their partitions come on top.
    * Gradients: a share of what trains, in float32, and the bucket that collects them.
    * AdamW: two moments and DeepSpeed's own copy of the values, a float32 share each.
    """
    world, sharing, sharded = run.world_size, run.sharing, zero_stage == 3
    base, statistics, nested = sizes.base_bytes, sizes.statistics, sizes.nested_statistics
    kept = sizes.resident * sizes.itemsize if sharded else 0
    trained = FLOAT32 * sizes.trainable
    adapters = FLOAT32 * sizes.adapter
    partitions = _share(adapters, world) if sharded else 0
    acts, tokens = sizes.activations, rows * run.max_length
    lean, whole = (
        acts.kept(rows=rows, length=run.max_length, checkpointing=on) for on in (True, False)
    )
    largest = max(sizes.quantized, default=0)
    held = {
        "base_weights": (_share(base, sharing) if sharded else base) + kept,
        "statistics": nested + _share(statistics - nested, sharing) if sharded else statistics,
        "adapters": adapters + partitions,
        "gradients": _share(trained, world) + FLOAT32 * run.bucket_numel,
        "optimizer": 3 * _share(trained, world),
        "gathered": gathered_bytes(sizes, run.prefetch_numel) if sharded and sharing > 1 else 0,
        "activations": lean if run.checkpointing else whole,
        "logits": logits_bytes(rows, run.max_length, sizes.vocabulary, sizes.itemsize),
        "working": working_bytes(acts.widest, largest, itemsize=sizes.itemsize, tokens=tokens),
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
    numels = sizes.partitioned
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
    numel = sum(sizes.partitioned)
    forward = sizes.itemsize * numel + sizes.statistics
    backward = forward - sizes.itemsize * sizes.input_only
    again = sizes.in_layers + sizes.statistics if run.checkpointing else 0
    return _received(forward + backward + again, run.sharing)


def _adapter_wire(sizes: Sizes, world: int, steps: int, sharded: bool) -> int:
    """Return the adapters' bytes that a rank receives in an optimizer step.

    Each micro-batch's gradients: a reduce-scatter under ZeRO-3, an all-reduce, twice as
    much, in DeepSpeed's ZeRO-2. Then the new values: an all-gather of what trains under
    ZeRO-2, of everything resident under ZeRO-3.
    """
    gradients = FLOAT32 * sizes.trainable * steps * (1 if sharded else 2)
    values = FLOAT32 * (sizes.adapter if sharded else sizes.trainable)
    if sharded:
        values += sizes.itemsize * sizes.resident
    return _received(gradients + values, world)


def _share(size: int, world: int) -> int:
    return -(-size // world)


def _received(size: int, world: int) -> int:
    return size * (world - 1) // world
