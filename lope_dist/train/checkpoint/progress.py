"""How far a run is: what a checkpoint says beside the tensors."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from lope_dist.train.checkpoint.cost import StageCost
from lope_dist.train.checkpoint.initial import InitialAdapter
from lope_dist.train.checkpoint.validation import ValidationHistory

Usage = dict[str, list[float]]
"""Numbers by the name of an adapted layer."""
PoisonWeight = dict[str, dict[str, float]]
"""`clean`, `corrupted` -> adapted layer -> mean weight."""


@dataclass
class StageProgress:
    """What one stage has behind it."""

    next_step: int = 0
    """Steps done."""
    tokens: int = 0
    """Tokens of these steps, over all ranks."""
    cut_examples: int = 0
    """Examples of the first epoch, so far, that were longer than a row."""
    skipped_steps: list[dict[str, Any]] = field(default_factory=list)
    """Steps that were left out: `step`, `reason`, `examples`."""
    patience_from: int = 0
    """Step from which early stopping counts: where the stage had ended before it was extended."""
    empty_steps: int = 0
    """Steps that were left out because no example in them has anything to learn."""
    router_sums: Usage = field(default_factory=dict)
    """The router's weights, added up over tokens and ranks, and the tokens' number."""
    corrupted_sums: Usage = field(default_factory=dict)
    """The poisoning experts' weight alone over the corrupted tokens, and their number."""


@dataclass
class RunProgress:
    """What a run has behind it.

    Attributes:
        index: Position of the current stage, from 1; one beyond the last when all are done.
        stage: What that stage has behind it.
        router: Mean router weights of the stages that are done.
        poison_weight: Of those with marks of noise, the poisoning experts' mean weight.
        cost: What each stage took, the current one included.
        validation: The losses on the validation rows, of all stages.
        init_from: Of a run that began with another's adapter, which one.
    """

    index: int = 1
    stage: StageProgress = field(default_factory=StageProgress)
    router: dict[str, Usage] = field(default_factory=dict)
    poison_weight: dict[str, PoisonWeight] = field(default_factory=dict)
    cost: dict[str, StageCost] = field(default_factory=dict)
    validation: ValidationHistory = field(default_factory=ValidationHistory)
    init_from: InitialAdapter | None = None

    def of_stage(self) -> dict[str, Any]:
        """Return as JSON the current stage's progress, router usage and cost of all."""
        return {
            "progress": asdict(self.stage),
            "router": self.router,
            "poison_weight": self.poison_weight,
            "cost": {name: asdict(cost) for name, cost in self.cost.items()},
            "validation": self.validation.as_json(),
            "init_from": None if self.init_from is None else self.init_from.as_json(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], *, is_end: bool) -> RunProgress:
        """Return where a run goes on from a checkpoint's `state.json`.

        ``is_end``: the checkpoint is that of a stage's end.
        """
        cost = {name: StageCost(**cost) for name, cost in state.get("cost", {}).items()}
        validation = ValidationHistory.from_json(state.get("validation", {}))
        began = state.get("init_from")
        initial = None if began is None else InitialAdapter(**began)
        of_done = state["router"], state.get("poison_weight", {}), cost, validation, initial
        if is_end:
            return cls(state["stage_index"] + 1, StageProgress(), *of_done)
        return cls(state["stage_index"], StageProgress(**state["progress"]), *of_done)
