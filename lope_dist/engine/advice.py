"""Which ZeRO stage, micro-batch and recomputation a plan speaks for, and why.

Pure arithmetic. Each way that fits is taken with its largest micro-batch, and the one with most
tokens a second wins (`engine/speed.py`). Replicating needs no gathers; sharding makes room for
larger micro-batches, or for doing without recomputation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lope_dist.core.memory import format_bytes
from lope_dist.engine.plan import accumulation, plan_rank, rows_per_rank
from lope_dist.engine.sizes import Settings, Sizes
from lope_dist.engine.speed import Hardware, Speed, speed

USABLE = 0.9
"""Share of a device that a plan may fill; the rest is the CUDA context, the libraries' own
buffers and fragmentation."""
CLEARLY = 1.02
"""How much faster sharding must be to be recommended where both ways fit."""


@dataclass(frozen=True)
class Choice:
    """A way to run that fits, with the largest micro-batch that does."""

    zero_stage: int
    shard: str
    """`engine.shard`; of no meaning under ZeRO-2."""
    gradient_checkpointing: bool
    micro_batch: int
    accumulation_steps: int
    total: int
    """Peak bytes of a training step."""
    received: int
    """Bytes that a rank receives in a step."""
    speed: Speed


@dataclass(frozen=True)
class Advice:
    """The settings that a plan recommends, and why."""

    zero_stage: int | None
    """None: the run fits in neither stage."""
    shard: str
    micro_batch: int
    accumulation_steps: int
    gradient_checkpointing: bool
    why: str
    helps: tuple[str, ...]
    """What would make room, where the run does not fit."""
    choices: tuple[Choice, ...]
    """All ways that fit, the fastest first."""


def advise(
    sizes: Sizes,
    run: Settings,
    *,
    device: int,
    node: int | None,
    one_row: bool,
    may_recompute: bool = True,
    hardware: Hardware,
) -> Advice:
    """Return the recommendation for devices of ``device`` bytes and nodes of ``node`` bytes.

    ``one_row``: the attention implementation allows micro-batches of one row only.
    ``may_recompute``: the model's layers may be recomputed.
    """
    usable = int(USABLE * device)
    least = {stage: plan_rank(sizes, run, stage, 1) for stage in (2, 3)}
    host = least[2].host_per_node
    if node is not None and host > node:
        text = (
            f"The processes of a node need {format_bytes(host)} of host memory, and it has "
            f"{format_bytes(node)}."
        )
        return _none(run, text, ("fewer ranks on a node (--ranks-per-node)",))
    most = 1 if one_row else rows_per_rank(run)
    sharings = ((2, "world"), (3, "world"), *([(3, "node")] if _has_nodes(run) else []))
    candidates = [
        _choice(sizes, replace(run, shard=shard, checkpointing=on), stage, usable, most, hardware)
        for stage, shard in sharings
        for on in ((False, True) if may_recompute else (False,))
    ]
    choices = sorted(filter(None, candidates), key=lambda choice: -choice.speed.tokens_per_s)
    if not choices:
        return _fits_nowhere(sizes, replace(run, checkpointing=may_recompute), usable)
    chosen, why = _choose(run, choices, least[2].base_weights + least[2].statistics, usable)
    return Advice(
        chosen.zero_stage,
        chosen.shard,
        chosen.micro_batch,
        chosen.accumulation_steps,
        chosen.gradient_checkpointing,
        why,
        (),
        tuple(choices),
    )


def _has_nodes(run: Settings) -> bool:
    return run.world_size > run.ranks_per_node > 1


def _choice(
    sizes: Sizes, run: Settings, stage: int, usable: int, most: int, hardware: Hardware
) -> Choice | None:
    rows = _rows_that_fit(sizes, run, stage, usable, most)
    if rows == 0:
        return None
    rows = min(rows, -(-rows_per_rank(run) // accumulation(run, rows)))  # even micro-batches
    plan = plan_rank(sizes, run, stage, rows)
    return Choice(
        stage,
        run.shard,
        run.checkpointing,
        rows,
        accumulation(run, rows),
        plan.total,
        plan.wire_base + plan.wire_adapters,
        speed(sizes, run, plan, rows, hardware),
    )


def _choose(run: Settings, choices: list[Choice], base: int, usable: int) -> tuple[Choice, str]:
    """Return one of the choices, which stand by speed, and one sentence for it."""
    share = f"{format_bytes(base)}, {base / usable:.0%} of a device's usable memory"
    whole = next((c for c in choices if c.zero_stage == 2), None)
    parts = _sharded(choices)
    if run.world_size == 1 and whole is not None:
        return whole, f"One rank has nobody to share with: the base takes {share}."
    if parts is None:
        assert whole is not None, "there is a choice"
        return whole, f"Only a replicated base fits beside what gathering would take: {share}."
    ranks = replace(run, shard=parts.shard).sharing
    saved = format_bytes(base - base // ranks)
    among = f"the {ranks} ranks of a node" if parts.shard == "node" else f"{ranks} ranks"
    if whole is None:
        return parts, (
            f"Only a sharded base fits: whole, it would take {share}; over {among} sharding saves "
            f"{saved} on each."
        )
    two, three = whole.speed, parts.speed
    times = f"a step takes {two.step_s:.3g} s replicated and {three.step_s:.3g} s sharded"
    if three.tokens_per_s <= CLEARLY * two.tokens_per_s:
        return whole, (
            f"The base fits whole on every device ({share}), and {times} over {among}, with "
            f"{format_bytes(parts.received)} received in {three.gather_s:.3g} s; ZeRO-3 would "
            f"save {saved} a rank."
        )
    return parts, (
        f"A whole base would take {share}; sharding it over {among} leaves {saved} more a rank to "
        f"activations, which pays for its gathers: {times}."
    )


def _sharded(choices: list[Choice]) -> Choice | None:
    """Return the best choice that shards: inside a node only where that is clearly faster."""
    best = {c.shard: c for c in reversed(choices) if c.zero_stage == 3}
    world, node = best.get("world"), best.get("node")
    if world is None or node is None:
        return world or node
    return node if node.speed.tokens_per_s > CLEARLY * world.speed.tokens_per_s else world


def _rows_that_fit(sizes: Sizes, run: Settings, stage: int, usable: int, most: int) -> int:
    """Return the most rows of a micro-batch that fit, at most ``most``; 0 if not even one."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        plan = plan_rank(sizes, run, stage, middle)
        if max(plan.total, plan.load_peak) <= usable:
            low = middle
        else:
            high = middle - 1
    return low


def _fits_nowhere(sizes: Sizes, run: Settings, usable: int) -> Advice:
    least = {stage: plan_rank(sizes, run, stage, 1) for stage in (2, 3)}
    smallest = min((2, 3), key=lambda stage: max(least[stage].total, least[stage].load_peak))
    need = max(least[smallest].total, least[smallest].load_peak)
    recomputed = ", recomputed," if run.checkpointing else ""
    text = (
        f"It fits in neither stage: even one row a micro-batch{recomputed} takes "
        f"{format_bytes(need)} under ZeRO-{smallest}, and {format_bytes(usable)} of a device are "
        "usable."
    )
    helps = []
    for factor in (2, 4, 8, 16):
        ranks = factor * run.world_size
        plan = plan_rank(sizes, replace(run, world_size=ranks), 3, 1)
        if max(plan.total, plan.load_peak) <= usable:
            helps.append(f"{ranks} ranks under ZeRO-3 ({format_bytes(plan.total)} each)")
            break
    half = replace(run, max_length=max(8, run.max_length // 2))
    shorter = plan_rank(sizes, half, smallest, 1).total
    helps.append(f"data.max_length={half.max_length} ({format_bytes(shorter)})")
    helps.append(f"devices of {format_bytes(int(need / USABLE))} or more")
    return _none(run, text, tuple(helps))


def _none(run: Settings, why: str, helps: tuple[str, ...]) -> Advice:
    return Advice(None, "world", 0, 0, run.checkpointing, why, helps, ())
