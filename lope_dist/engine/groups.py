"""Optimizer groups by role, proved total and disjoint over the trainable parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lope_dist.config.train import StageConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role


@dataclass(frozen=True)
class Group:
    """One role's settings in the optimizer."""

    role: Role
    lr: float
    weight_decay: float


def build_groups(
    model: nn.Module, roles: Mapping[str, Role], stage: StageConfig
) -> list[dict[str, Any]]:
    """Return torch parameter groups, one for each trainable role that has parameters.

    Empty groups are left out: DeepSpeed drops them silently, which misaligns every list
    that runs parallel to the groups.

    Raises:
        LopeError: a trainable role has no parameter in this model.
    """
    groups: list[dict[str, Any]] = []
    for role in stage.trainable:
        parameters = [p for n, p in model.named_parameters() if roles[n] == role]
        if not parameters:
            raise LopeError(
                f"The stage trains the role '{role}', but the adapter has no such parameter."
            )
        settings = stage.groups.get(role)
        lr = stage.lr if settings is None or settings.lr is None else settings.lr
        decay = (
            stage.weight_decay
            if settings is None or settings.weight_decay is None
            else settings.weight_decay
        )
        groups.append({"name": str(role), "params": parameters, "lr": lr, "weight_decay": decay})
    grouped = [id(p) for group in groups for p in group["params"]]
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert len(grouped) == len(set(grouped)), "a parameter is in two optimizer groups"
    assert set(grouped) == trainable, "optimizer groups and trainable parameters differ"
    return groups


def describe_groups(groups: list[dict[str, Any]]) -> list[Group]:
    """Return what a list of torch parameter groups says."""
    return [Group(Role(g["name"]), float(g["lr"]), float(g["weight_decay"])) for g in groups]


def check_groups(configured: list[Group], in_use: list[Group]) -> None:
    """Refuse to train with settings that the optimizer did not take over.

    Raises:
        LopeError: the groups differ in number, order, lr or weight decay.
    """
    if configured != in_use:
        raise LopeError(
            f"The optimizer did not take the groups as configured: wanted {configured}, it has "
            f"{in_use}; this is a fault of the engine, please report it."
        )
