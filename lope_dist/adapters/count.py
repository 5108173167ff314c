"""How many parameters there are, by role, by stage, and as the paper counts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lope_dist.adapters.base import adapter_modules
from lope_dist.adapters.lope import model_roles
from lope_dist.config.adapter import AdapterConfig
from lope_dist.config.baselines import BaselineConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.roles import ADAPTER_ROLES, Role


def count_parameters(
    model: nn.Module, config: AdapterConfig | BaselineConfig, stages: Mapping[str, StageConfig]
) -> dict[str, Any]:
    """Count a model that has its adapters, on the meta device, where NF4 weights have their shape.

    The paper's figure, `percent_inference`, is A and the normal experts over the base
    model's parameters: the experts used at inference, without the router. Of a baseline it is
    all that it adds. What training really holds stands beside it.

    Returns:
        JSON-able counts and percentages (of the base model's parameters, unrounded).

    Paper: table 1, column %Param.
    """
    modules = adapter_modules(model)
    assert modules, "count after the model has its adapters"
    role_of = model_roles(model)
    by_role = dict.fromkeys(Role, 0)
    for name, parameter in model.named_parameters():  # tied weights come once
        by_role[role_of[name]] += parameter.numel()
    base = by_role[Role.BASE]
    adapter = sum(by_role[role] for role in ADAPTER_ROLES)
    inference = by_role[Role.SHARED_A] + by_role[Role.NORMAL_B] + by_role[Role.ADAPTER]
    shape: dict[str, Any] = {"kind": config.kind}
    roles: tuple[Role, ...] = (Role.ADAPTER,)
    if isinstance(config, AdapterConfig):
        shape |= {
            "rank": config.rank,
            "num_normal": config.num_normal,
            "num_poison": config.num_poison,
        }
        roles = tuple(role for role in ADAPTER_ROLES if role != Role.ADAPTER)
    return {
        "model_parameters": base,
        "adapted_layers": sum(m.wraps_a_layer for m in modules.values()),
        **shape,
        "inference_parameters": inference,
        "percent_inference": 100 * inference / base,
        "adapter_parameters": adapter,
        "percent_with_router_and_poison": 100 * adapter / base,
        "by_role": {str(role): by_role[role] for role in roles},
        "trainable_by_stage": {
            name: _stage_counts(stage, by_role) for name, stage in stages.items()
        },
    }


def _stage_counts(stage: StageConfig, by_role: Mapping[Role, int]) -> dict[str, Any]:
    counts: dict[str, Any] = {str(role): by_role[role] for role in stage.trainable}
    total = sum(counts.values())
    return counts | {"total": total, "percent": 100 * total / by_role[Role.BASE]}
