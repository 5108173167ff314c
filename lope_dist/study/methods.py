"""LoRA, HydraLoRA and LoPE from one recipe of LoPE: the same rows, steps and tokens."""

from __future__ import annotations

from typing import Any

from lope_dist.config.adapter import AdapterConfig
from lope_dist.config.schema import RunConfig
from lope_dist.config.train import StageConfig, default_stages
from lope_dist.core.errors import LopeError
from lope_dist.study.schema import Overrides, VariantConfig

METHODS = {"lope": "LoPE", "hydralora": "HydraLoRA", "lora": "LoRA"}
"""Method -> how tables call it; the slowest first, so that a plan of time errs to the safe side."""
ANSWER = {"lope": "masked", "hydralora": "all", "lora": "all"}
"""The row of experts that a method is used with."""
ROWS = {"lope": ("masked", "all"), "hydralora": ("all",), "lora": ("all", "base")}
"""The rows that are scored; the base model's once, beside LoRA."""
_OF_ANY_METHOD = ("lr", "weight_decay", "schedule", "warmup_ratio", "loss", "ema_decay")
"""Settings of LoPE's last stage that the others take over; and `groups` of roles that they have."""
_PLAIN = {"adapter.compensation": {"mode": "none"}}


def refuse_other_adapters(config: RunConfig) -> AdapterConfig:
    """Return the adapter of a recipe that trains LoPE.

    Raises:
        LopeError: it has no poisoning expert, or begins with another run's adapter.
    """
    adapter = config.lope_adapter("lope compare")
    if adapter.num_poison == 0:
        raise LopeError(
            "lope compare takes a recipe of LoPE and makes LoRA and HydraLoRA from it, and this "
            "one has adapter.num_poison = 0; set adapter.num_poison=1, or let `lope init` write a "
            "recipe."
        )
    if adapter.init_from is not None:
        raise LopeError(
            f"lope compare trains each method from its beginning, and the recipe has "
            f"adapter.init_from = '{adapter.init_from}'; set adapter.init_from=null."
        )
    return adapter


def variant(config: RunConfig, method: str, factor: float, num_steps: int) -> VariantConfig:
    """Return a method at a factor on the recipe's learning rates.

    LoRA has the rank at which it has about as many parameters as LoPE, and the same scaling.

    Args:
        config: The recipe.
        method: One of `METHODS`.
        factor: On all learning rates.
        num_steps: Optimizer steps of the recipe's stages together.
    """
    adapter = refuse_other_adapters(config)
    overrides: Overrides = {}
    if method == "lope":
        stages = {name: _scaled(stage, factor) for name, stage in config.train.stages.items()}
    else:
        num_normal = 1 if method == "lora" else adapter.num_normal
        one_stage = _one_stage(config, num_normal, num_steps)
        stages = {"finetune": _scaled(one_stage, factor)}
        overrides |= {"adapter.num_normal": num_normal, "adapter.num_poison": 0, **_PLAIN}
    if method == "hydralora":
        overrides["adapter.router"] = "input"
    if method == "lora":
        rank = max(1, round(adapter.rank * (1 + adapter.num_experts) / 2))
        overrides["adapter.rank"] = rank
        overrides["adapter.lora_alpha"] = adapter.scaling * rank
    rate = last_rate(config) * factor
    return VariantConfig(
        label=f"{METHODS[method]}, lr {rate:.2g}",
        overrides=overrides | {"train.stages": stages},
        rows=ROWS[method],
    )


def last_rate(config: RunConfig) -> float:
    """Return the learning rate of a recipe's last stage."""
    return [*config.train.stages.values()][-1].lr


def steps_of_stages(config: RunConfig, num_rows: int) -> int:
    """Return the optimizer steps of all stages on so many rows, which fill whole batches."""
    an_epoch = num_rows // config.train.global_batch
    stages = config.train.stages.values()
    return sum(min(s.epochs * an_epoch, s.max_steps or s.epochs * an_epoch) for s in stages)


def _scaled(stage: StageConfig, factor: float) -> dict[str, Any]:
    tree = stage.model_dump(mode="json")
    for section in (tree, *tree["groups"].values()):
        if section["lr"] is not None:
            section["lr"] = _rounded(section["lr"] * factor)
    return tree


def _one_stage(config: RunConfig, num_normal: int, num_steps: int) -> StageConfig:
    """Return the last stage for an adapter without poisoning experts, over all steps.

    What needs noise, marks or poisoning experts is left at its default: that is LoPE's own.
    """
    stages = [*config.train.stages.values()]
    last = stages[-1]
    (plain,) = default_stages(num_normal, 0).values()
    return plain.model_copy(
        update={key: getattr(last, key) for key in _OF_ANY_METHOD}
        | {
            "groups": {role: g for role, g in last.groups.items() if role in plain.trainable},
            "epochs": sum(stage.epochs for stage in stages),
            "max_steps": num_steps,
        }
    )


def _rounded(rate: float) -> float:
    return float(f"{rate:.6g}")
