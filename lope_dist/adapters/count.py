"""How many parameters there are, by role, by stage, and as the paper counts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lope_dist.adapters.lope import lope_layers, model_roles
from lope_dist.config.adapter import AdapterConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.roles import ADAPTER_ROLES, Role


def count_parameters(
    model: nn.Module, config: AdapterConfig, stages: Mapping[str, StageConfig]
) -> dict[str, Any]:
    """Count a model that has its adapters, on the meta device and not quantized.

    The paper's figure, `percent_inference`, is A and the normal experts over the base
    model's parameters: the experts used at inference, without the router. What training
    really holds stands beside it.

    Returns:
        JSON-able counts and percentages (of the base model's parameters, unrounded).

    Paper: table 1, column %Param.
    """
    layers = lope_layers(model)
    assert layers, "count after `inject`"
    role_of = model_roles(model)
    by_role = dict.fromkeys(Role, 0)
    for name, parameter in model.named_parameters():  # tied weights come once
        by_role[role_of[name]] += parameter.numel()
    base = by_role[Role.BASE]
    adapter = sum(by_role[role] for role in ADAPTER_ROLES)
    inference = by_role[Role.SHARED_A] + by_role[Role.NORMAL_B]
    return {
        "model_parameters": base,
        "adapted_layers": len(layers),
        "rank": config.rank,
        "num_normal": config.num_normal,
        "num_poison": config.num_poison,
        "inference_parameters": inference,
        "percent_inference": 100 * inference / base,
        "adapter_parameters": adapter,
        "percent_with_router_and_poison": 100 * adapter / base,
        "by_role": {str(role): by_role[role] for role in ADAPTER_ROLES},
        "trainable_by_stage": {
            name: _stage_counts(stage, by_role) for name, stage in stages.items()
        },
    }


def _stage_counts(stage: StageConfig, by_role: Mapping[Role, int]) -> dict[str, Any]:
    counts: dict[str, Any] = {str(role): by_role[role] for role in stage.trainable}
    total = sum(counts.values())
    return counts | {"total": total, "percent": 100 * total / by_role[Role.BASE]}
