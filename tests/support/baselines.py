"""Adapters of every kind, tiny: `adapter` by name."""

from __future__ import annotations

from typing import Any

BASELINES: dict[str, dict[str, Any]] = {
    "adalora": {
        "kind": "adalora",
        "target_rank": 2,
        "initial_rank": 4,
        "dropout": 0.1,
        "allocate_every_steps": 2,
    },
    "p_tuning": {"kind": "p_tuning", "num_virtual_tokens": 5, "encoder_hidden_size": 16},
    "p_tuning_mlp": {"kind": "p_tuning", "num_virtual_tokens": 5, "encoder": "mlp"},
    "prefix_tuning": {"kind": "prefix_tuning", "num_virtual_tokens": 5},
}
"""Those of peft."""

_HYDRA = {"num_normal": 3, "num_poison": 0, "rank": 4, "dropout": 0.1}
WITHOUT_POISON: dict[str, dict[str, Any]] = {
    "lora": {**_HYDRA, "num_normal": 1},
    "hydralora_rank": {**_HYDRA, "router": "rank"},
    "hydralora_input": {**_HYDRA, "router": "input"},
}

_LOPE = {"num_normal": 2, "num_poison": 1, "rank": 4, "dropout": 0.1}
LOPE: dict[str, dict[str, Any]] = {
    "lope_rank": {**_LOPE, "router": "rank"},
    "lope_input": {**_LOPE, "router": "input"},
}
ALL = {**BASELINES, **WITHOUT_POISON, **LOPE}


def roles_of(adapter: dict[str, Any]) -> list[str]:
    """Return all roles that an adapter has."""
    if "kind" in adapter:
        return ["adapter"]
    roles = ["shared_a", "normal_b"]
    if adapter["num_poison"]:
        roles.append("poison_b")
    if adapter["num_normal"] + adapter["num_poison"] > 1:
        roles.append("router")
    return roles


_LRS = {"adalora": 0.03, "prefix_tuning": 0.1, "p_tuning_mlp": 0.003}


def stage_of(name: str) -> dict[str, Any]:
    """Return a stage that trains all of an adapter, LoPE's with what its tokens' marks allow."""
    stage: dict[str, Any] = {"trainable": roles_of(ALL[name]), "lr": _LRS.get(name, 0.01)}
    if name == "lope_rank":
        stage |= {"loss_on": "corrupted", "poison_scale": 2.0}
    if name == "lope_input":
        stage |= {"gradient_routing": True, "poison_scale": 2.0}
    return stage
