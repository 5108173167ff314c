"""What a step is made of on these ranks, and the memory that it will take, as premises say it."""

from __future__ import annotations

import psutil
import torch

from lope_dist.config.adapter import AdapterConfig
from lope_dist.config.schema import RunConfig
from lope_dist.core.memory import format_bytes
from lope_dist.engine.plan import accumulation, plan_rank
from lope_dist.engine.processes import local_size
from lope_dist.train.premises.preflight import Plan
from lope_dist.train.premises.sizing import measure, settings_of


def batch_sentence(config: RunConfig, num_ranks: int) -> str:
    """Return the examples of a step as ranks x micro-batch x accumulation."""
    run = settings_of(config, num_ranks, local_size())
    bound = "" if config.data.packing is False else "up to "  # several examples share a row
    return (
        f"{run.global_batch} examples a step: {_count(num_ranks, 'rank')} x "
        f"{_count(run.micro_batch, 'row')} a forward pass x {bound}"
        f"{accumulation(run, run.micro_batch)} accumulated"
    )


def memory_sentence(plan: Plan, num_ranks: int, device: torch.device) -> str | None:
    """Return the planned peak of a step and what there is; None where nothing is planned.

    That is of baselines' adapters and where weights are kept in the host's memory.
    """
    config = plan.config
    if not isinstance(config.adapter, AdapterConfig) or config.engine.offload != "none":
        return None
    run = settings_of(config, num_ranks, local_size())
    zero_stage = 3 if config.engine.partitions_parameters else 2
    memory = plan_rank(measure(plan.model, config), run, zero_stage, run.micro_batch)
    if device.type == "cuda":
        planned, where = memory.total, "a rank's GPU"
        held = torch.cuda.get_device_properties(device).total_memory
    else:
        planned, where = memory.host_per_node_cpu, "this host"
        held = psutil.virtual_memory().total
    sentence = f"about {format_bytes(planned)} planned of the {format_bytes(held)} of {where}"
    return f"{sentence}: more than there is, ask lope plan" if planned > held else sentence


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
