"""What a run stands on, in a short table: the same for people, in `manifest.json` and in reports.

`lope check` fills in what structure shows; a run fills in the rest once its model is loaded.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from lope_dist.adapters.base import adapter_modules
from lope_dist.adapters.lope import model_roles
from lope_dist.config.schema import RunConfig
from lope_dist.core.roles import Role
from lope_dist.model.kernels import kernels_sentence
from lope_dist.model.loss_head import loss_head
from lope_dist.model.quantization import quantization_of
from lope_dist.model.slow_dtype import slow_dtype_sentence
from lope_dist.train.premises.expected import batch_sentence, memory_sentence
from lope_dist.train.premises.preflight import Plan, beyond_positions

_SHOWN = 6


@dataclass
class Premises:
    """The table; each entry is a sentence or a few words, `facts` the numbers behind them."""

    model: str
    quantization: str
    adapter: str
    attention: str
    packing: str
    head: str
    kernels: str
    dropout: str
    batch: str
    memory: str | None
    output: str
    init_from: str | None = None
    """The checkpoint of another run that the adapter began with."""
    precision: str | None = None
    """A precision that this device only emulates."""
    positions: str | None = None
    """That rows may be longer than what the model was trained on."""
    parts: str | None = None
    """What of the model is not trained because it reads no text."""
    data: dict[str, Any] | None = None
    """The figures of the pass over all rows, which a run fills in; it prints their own table."""
    facts: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def lines(self) -> list[str]:
        """Return the table for a terminal."""
        rows = {key: value for key, value in self.as_json().items() if key not in ("facts", "data")}
        width = max(map(len, rows))
        return [f"{key:<{width}}  {value}" for key, value in rows.items()]


def check_premises(
    plan: Plan, config: RunConfig, num_ranks: int = 1, device: torch.device | None = None
) -> Premises:
    """Return the premises as far as structure shows them: no weight is read.

    Args:
        plan: The model's structure, and what was decided in the place of `auto`.
        config: The run's.
        num_ranks: How many ranks there are.
        device: That of this rank; None: a GPU, if there is one.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, settled = plan.model, plan.config
    facts = quantization_of(model, settled.model)
    by_stage = _trainable(model, config)
    layers = [name for name, m in adapter_modules(model).items() if m.wraps_a_layer]
    leaves = list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    named = ", ".join(leaves[:_SHOWN]) + (" ..." if len(leaves) > _SHOWN else "")
    stages = ", ".join(f"{name} trains {count:,}" for name, count in by_stage.items())
    parts, beyond = plan.family.untrained, beyond_positions(config, model.config)
    return Premises(
        model=f"{config.model.name_or_path} ({model.config.model_type}, {settled.model.dtype})",
        quantization=facts.sentence(),
        adapter=f"{config.adapter.kind} on {len(layers)} layers ({named}); {stages} parameters",
        attention=settled.model.attention,
        packing=_packing(settled.data.packing),
        head=head_sentence(model, config),
        kernels=kernels_sentence(model),
        dropout="off in the base model",
        batch=batch_sentence(settled, num_ranks),
        memory=memory_sentence(plan, num_ranks, device),
        output=_output(config),
        precision=slow_dtype_sentence(settled.model.dtype, device),
        positions=beyond,
        parts=f"{', '.join(parts)}: not trained, they read no text" if parts else None,
        facts={
            **facts.as_json(),
            "adapted_layers": len(layers),
            "trainable_by_stage": by_stage,
            "model_type": model.config.model_type,
        },
    )


def _output(config: RunConfig) -> str:
    every = config.train.checkpoint.every_steps
    saved = "at each stage's end" if every is None else f"every {every:,} steps"
    return f"{config.output_dir}; saved {saved}, and continued by --resume"


def _packing(packing: bool | str) -> str:
    if packing == "auto":
        return "on if the loaded model keeps packed examples apart"
    return "on if the loaded model keeps packed examples apart, else an error" if packing else "off"


def head_sentence(model: PreTrainedModel, config: RunConfig) -> str:
    """Return how the loss is computed, in words; Liger sums a plain cross-entropy, unweighted."""
    if (head := loss_head(model)) is not None:
        plain = [
            name
            for name, stage in config.train.stages.items()
            if stage.loss.kind == "cross_entropy" and not stage.soft_routing
        ]
        by = ""
        if head.uses_liger and plain and not config.data.has_weights:
            where = "" if len(plain) == len(config.train.stages) else f" in {', '.join(plain)}"
            by = f", by Liger{where}"
        return f"the loss is computed in chunks, without whole logits{by}"
    return "whole logits: the model scales, caps or quantizes its head's answer, or adapts it"


def _trainable(model: PreTrainedModel, config: RunConfig) -> dict[str, int]:
    roles = model_roles(model)
    sizes = {n: p.numel() for n, p in model.named_parameters() if roles[n] != Role.BASE}
    return {
        name: sum(size for n, size in sizes.items() if roles[n] in stage.trainable)
        for name, stage in config.train.stages.items()
    }
