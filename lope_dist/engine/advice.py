"""Which ZeRO stage, micro-batch and accumulation a plan speaks for, and why.

Pure arithmetic. Replicating needs no gathers, so it is faster wherever it fits with room to
spare. Gathers pay off where the base would take so much of each device that what sharding
frees makes larger micro-batches possible: from tens of billions of parameters, or on small
cards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lope_dist.core.memory import format_bytes
from lope_dist.engine.plan import RankPlan, accumulation, plan_rank, rows_per_rank
from lope_dist.engine.sizes import Settings, Sizes

USABLE = 0.9
"""Share of a device that a plan may fill; the rest is the CUDA context, the libraries' own
buffers and fragmentation."""
LARGE_BASE = 1 / 3
"""From this share of the usable memory on, a replicated base is better sharded (a rule of
thumb: below it, sharding makes room for at most half as many rows again)."""


@dataclass(frozen=True)
class Advice:
    """What to set."""

    zero_stage: int | None
    """None: the run fits in neither stage."""
    micro_batch: int
    accumulation_steps: int
    why: str
    helps: tuple[str, ...]
    """What would make room, where the run does not fit; else what is worth knowing."""


def advise(sizes: Sizes, run: Settings, *, device: int, node: int | None, one_row: bool) -> Advice:
    """Return the recommendation for devices of ``device`` bytes and nodes of ``node`` bytes.

    ``one_row``: the attention implementation allows micro-batches of one row only.
    """
    usable = int(USABLE * device)
    most = 1 if one_row else rows_per_rank(run)
    rows = {stage: _rows_that_fit(sizes, run, stage, usable, most) for stage in (2, 3)}
    least = {stage: plan_rank(sizes, run, stage, 1) for stage in (2, 3)}
    host = least[2].host_per_node
    if node is not None and host > node:
        text = (
            f"The processes of a node need {format_bytes(host)} of host memory, and it has "
            f"{format_bytes(node)}."
        )
        return Advice(None, 0, 0, text, ("fewer ranks on a node (--ranks-per-node)",))
    if not any(rows.values()):
        return _fits_nowhere(sizes, run, least, usable)
    base = least[2].base_weights + least[2].statistics
    stage, why = _choose(run, rows, base, usable)
    steps = -(-rows_per_rank(run) // rows[stage])
    micro_batch = min(rows[stage], -(-rows_per_rank(run) // steps))  # even micro-batches
    helps = []
    if run.checkpointing:
        without = replace(run, checkpointing=False)
        if plan_rank(sizes, without, stage, micro_batch).total <= usable:
            helps.append("it fits without recomputation too: model.gradient_checkpointing=false")
    return Advice(stage, micro_batch, accumulation(run, micro_batch), why, tuple(helps))


def _choose(run: Settings, rows: dict[int, int], base: int, usable: int) -> tuple[int, str]:
    """Return the stage and one sentence for it; at least one stage has rows that fit."""
    share = f"{format_bytes(base)}, {base / usable:.0%} of a device's usable memory"
    if run.world_size == 1:
        return (2, f"One rank has nobody to share with: the base takes {share}.")
    saved = format_bytes(base - base // run.world_size)
    if not rows[2]:
        return 3, (
            f"Only a sharded base fits: whole, it would take {share}; over "
            f"{run.world_size} ranks sharding saves {saved} on each."
        )
    if not rows[3]:
        return 2, f"Only a replicated base fits beside what gathering would take: {share}."
    if base <= LARGE_BASE * usable:
        return 2, (
            f"The base fits whole on every device ({share}), so gathering it in every pass "
            f"would only cost time; ZeRO-3 would save {saved} a rank."
        )
    return 3, (
        f"A whole base would take {share}; sharding leaves {saved} more a rank to "
        "activations, which larger micro-batches turn into speed."
    )


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


def _fits_nowhere(sizes: Sizes, run: Settings, least: dict[int, RankPlan], usable: int) -> Advice:
    smallest = min((2, 3), key=lambda stage: max(least[stage].total, least[stage].load_peak))
    need = max(least[smallest].total, least[smallest].load_peak)
    text = (
        f"It fits in neither stage: even one row a micro-batch takes {format_bytes(need)} under "
        f"ZeRO-{smallest}, and {format_bytes(usable)} of a device are usable."
    )
    helps = []
    if not run.checkpointing:
        lean = plan_rank(sizes, replace(run, checkpointing=True), smallest, 1).total
        helps.append(f"model.gradient_checkpointing=true ({format_bytes(lean)})")
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
    return Advice(None, 0, 0, text, tuple(helps))
