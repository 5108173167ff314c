"""What a run's folder tells of its newest checkpoint, for people and for the report."""

from __future__ import annotations

from typing import Any

from lope_dist.core.files import telling_disk_errors
from lope_dist.core.runlog import write_json
from lope_dist.train.checkpoint.choice import best_point
from lope_dist.train.checkpoint.cost import COST_FILE, StageCost
from lope_dist.train.checkpoint.descriptions import STATE
from lope_dist.train.checkpoint.folder import Checkpoint
from lope_dist.train.checkpoint.validation import ValidationHistory
from lope_dist.train.run.setup import Inputs


def write_run_files(session: Inputs, checkpoint: Checkpoint, state: dict[str, Any]) -> None:
    """Write what the run's folder says of a checkpoint: `state.json`, `router.json`, `cost.json`.

    One rank calls this.

    Raises:
        LopeError: the disk is full.
    """
    adapter = session.config.adapter
    experts = [f"normal_{i}" for i in range(adapter.num_normal)]
    experts += [f"poison_{i}" for i in range(adapter.num_poison)]
    of_files = ("router", "poison_weight", "cost")  # with a file of their own
    summary = {key: value for key, value in state.items() if key not in of_files}
    cost = {name: StageCost(**taken).as_json() for name, taken in state.get("cost", {}).items()}
    is_last = state["stage_index"] == len(session.config.train.stages)
    if is_last and checkpoint.step is None:
        summary["status"] = "finished"
    row = session.config.train.keep_best
    history = ValidationHistory.from_json(state.get("validation", {}))
    if row is not None and (best := best_point(session.config, history)) is not None:
        summary["best"] = {"stage": best.stage, "steps": best.step, "row": row}
        summary["best"]["loss"] = best.losses[row]
    with telling_disk_errors(session.run_dir):
        write_json(session.run_dir / STATE, summary)
        usage = {**state["router"], "experts": experts}
        if poison_weight := state.get("poison_weight"):
            usage["poison_weight"] = poison_weight
        write_json(session.run_dir / "router.json", usage)
        write_json(session.run_dir / COST_FILE, cost)
