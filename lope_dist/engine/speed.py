"""How long a training step takes, as far as a few stated speeds of the machine decide it.

Pure arithmetic. A step computes, unpacks NF4 weights in each pass, and receives: the base under
ZeRO-3, the adapters' gradients and values always. What is gathered ahead of its use hides behind
computing, so of the two the longer one counts. Left out: attention's own products (2 % at 1,024
tokens and 70B), launch times, and whatever a row has less than its full length. The figures rank
choices; they foretell no run.
"""

from __future__ import annotations

from dataclasses import dataclass

from lope_dist.engine.plan import RankPlan, accumulation, rows_per_rank
from lope_dist.engine.sizes import Settings, Sizes, packed_bytes


@dataclass(frozen=True)
class Hardware:
    """The speeds that a plan reckons with. The defaults are those of H100 nodes."""

    tflops: float = 400.0
    """Sustained 16-bit TFLOP/s of a device (40 % of an H100's 989)."""
    memory_gbs: float = 3350.0
    """GB/s of a device's own memory."""
    node_gbs: float = 300.0
    """GB/s that a rank receives from ranks of its node (NVLink; PCIe 4.0 has 25)."""
    network_gbs: float = 50.0
    """GB/s that a node receives from other nodes (one 400 Gb/s adapter)."""


@dataclass(frozen=True)
class Speed:
    """One optimizer step; seconds, but for the last."""

    compute_s: float
    gather_s: float
    """Receiving the base, beside computing."""
    adapters_s: float
    """Receiving gradients and new values, after it."""
    step_s: float
    tokens_per_s: float
    """Of all ranks, rows taken as full."""


def speed(sizes: Sizes, run: Settings, plan: RankPlan, rows: int, hardware: Hardware) -> Speed:
    """Return the speed of ``plan``, which has micro-batches of ``rows`` rows.

    A frozen weight costs a token 2 floating-point operations forward and 2 backward, for the
    gradient of its input alone; recomputing costs the layers' 2 once more. Each of these passes
    reads packed weights and scales, and writes and reads the 16-bit ones.
    """
    tokens = rows_per_rank(run) * run.max_length
    passes = 3 if run.checkpointing else 2
    flops = 2.0 * tokens * (2 * sizes.active + (passes - 2) * sizes.active_in_layers)
    weights = sum(sizes.quantized)
    unpacked = packed_bytes(weights) + sizes.statistics + 2 * sizes.itemsize * weights
    compute_s = flops / (hardware.tflops * 1e12)
    compute_s += passes * accumulation(run, rows) * unpacked / (hardware.memory_gbs * 1e9)
    gather_s = receive_s(plan.wire_base, run.sharing, run.ranks_per_node, hardware)
    adapters_s = receive_s(plan.wire_adapters, run.world_size, run.ranks_per_node, hardware)
    step_s = max(compute_s, gather_s) + adapters_s
    per_s = run.global_batch * run.max_length / step_s
    return Speed(compute_s, gather_s, adapters_s, step_s, per_s)


def receive_s(received: int, ranks: int, ranks_per_node: int, hardware: Hardware) -> float:
    """Return the seconds of collectives of so many ranks in which each receives ``received`` bytes.

    In a ring over several nodes all of it enters each node once, from where its ranks have it
    from each other; the slower of the two ways counts.
    """
    gbs = hardware.node_gbs
    if ranks > ranks_per_node:
        gbs = min(gbs, hardware.network_gbs)
    return received / (gbs * 1e9)
