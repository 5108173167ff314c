"""What answering takes of each rank, with a base that is whole there or spread over the ranks.

Plain arithmetic on a model without weights. While a rank answers with a spread base it holds its
share and one unit: a layer, or some rows of the embedding or the head (`engine/gathering.py`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from lope_dist.config.model import ModelConfig
from lope_dist.engine.advice import USABLE
from lope_dist.engine.gathering import units_of
from lope_dist.engine.rows import ROWS_BYTES, is_by_rows
from lope_dist.engine.speed import Hardware, receive_s
from lope_dist.model.build import architecture, build_meta_model
from lope_dist.model.nf4 import packed_weights

TOKENS_AT_ONCE = 4096
"""Of a forward pass, padding included, where batches are formed by tokens."""
_WIDTHS = 16
"""Hidden states that a layer holds at once: a generous count of projections and copies."""


@dataclass(frozen=True)
class EvaluationPlan:
    """One rank that answers; all in bytes."""

    world_size: int
    base: int
    """All of the base, as it is kept."""
    unit: int
    """The largest unit, as it is kept: what is gathered at once."""
    working: int
    """Of a forward pass of `TOKENS_AT_ONCE`: logits, their logarithms, one layer's states and one
    weight dequantized."""

    @property
    def whole(self) -> int:
        """Peak where each rank holds the base."""
        return self.base + self.working

    @property
    def sharded(self) -> int:
        """Peak where each rank holds a part of the base."""
        return -(-self.base // self.world_size) + self.unit * (self.world_size > 1) + self.working

    @property
    def wire(self) -> int:
        """What a rank receives in each forward pass, and so for each token that it generates."""
        return self.base * (self.world_size - 1) // self.world_size

    def base_for(self, free: float) -> str | None:
        """Return what `--base auto` does where each rank has ``free`` bytes; None: nothing fits."""
        if self.whole <= USABLE * free:
            return "whole"
        return "sharded" if self.sharded <= USABLE * free else None

    def as_json(self) -> dict[str, int]:
        """Return all of it."""
        sums = ("whole", "sharded", "wire")
        return asdict(self) | {name: getattr(self, name) for name in sums}


def plan_answers(
    config: ModelConfig,
    *,
    world_size: int,
    gpu_memory: int,
    ranks_per_node: int,
    hardware: Hardware,
) -> dict[str, Any]:
    """Return the part `evaluation` of `lope plan --json`; sizes in bytes.

    `gather_s`: of the gathers of one forward pass, and so of each generated token, where the base
    is spread. `base`: what `--base auto` does, None where nothing fits.
    """
    plan = plan_evaluation(build_meta_model(config, architecture(config)), world_size)
    gather_s = receive_s(plan.wire, world_size, ranks_per_node, hardware)
    return plan.as_json() | {"gather_s": gather_s, "base": plan.base_for(gpu_memory)}


def plan_evaluation(model: nn.Module, world_size: int) -> EvaluationPlan:
    """Return what answering with this model takes; it may be on the meta device."""
    stored: dict[int, int] = {}
    largest = 0
    for module in model.modules():
        packed = packed_weights(module)
        for name, parameter in module.named_parameters(recurse=False):
            numel = packed[name].layout.num_elements if name in packed else parameter.numel()
            stored[id(parameter)] = numel * parameter.element_size()
            numel = packed[name].shape.numel() if name in packed else 0
            largest = max(largest, numel * parameter.element_size())
    vocabulary, width = model.get_input_embeddings().weight.shape  # pyright: ignore
    itemsize = model.get_input_embeddings().weight.element_size()  # pyright: ignore
    per_token = itemsize * (2 * vocabulary + _WIDTHS * width)
    return EvaluationPlan(
        world_size,
        base=sum(stored.values()),
        unit=max(
            min(size, ROWS_BYTES) if is_by_rows(unit) else size
            for unit, parameters in units_of(model)
            for size in [sum(stored[id(p)] for p in parameters)]
        ),
        working=TOKENS_AT_ONCE * per_token + largest,
    )
