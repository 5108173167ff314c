"""Steps whose loss or gradient is not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faults.base import case
from faults.runs import adapter, assert_tells, write_recipe
from support.launching import Rank, run_ranks, succeed

from lope_dist.core.runlog import read_json

NUMBERS = "Steps that are not finite"


def _spoiled(folder: Path, num_ranks: int, what: str, *overrides: str) -> list[Rank]:
    recipe = folder / "recipe.yaml"
    if not recipe.exists():
        write_recipe(folder)
    output = folder / "-".join([what, str(num_ranks), *overrides]).replace("/", "_")
    arguments = ["tests/dist/workers/nan_on_rank_1.py", str(recipe), str(output), what]
    return run_ranks([*arguments, *overrides], num_ranks, folder=folder)


@case(
    "nan-stops",
    group=NUMBERS,
    states="A loss, or a gradient, that is NaN on one rank ends all ranks before its step, with "
    "the examples' ids.",
)
def _nan_stops(folder: Path) -> dict[str, Any]:
    for what, cause in (("loss", "the loss is"), ("gradient", "the gradient's norm is")):
        ended = _spoiled(folder, 2, what)
        assert [rank.status for rank in ended] == [2, 2], ended[0].output[-2000:]
        for rank in ended:
            assert_tells(rank, "Step 3", cause, "; examples [", "train.max_skipped_steps = 0")
    return {}


@case(
    "nan-skipped",
    group=NUMBERS,
    states="With train.max_skipped_steps = 1 such a step is left out, under ZeRO-2, ZeRO-3 and "
    "offload alike: the run ends as if it had never been made.",
)
def _nan_skipped(folder: Path) -> dict[str, Any]:
    recipe = write_recipe(folder, train__max_skipped_steps=1)
    # steps 0 to 2 of each stage, with the schedule of all four: the spoiled one is the last
    expected = _adapter_without_step_3(recipe, folder)
    largest = 0.0
    for what in ("loss", "gradient"):
        for kind in ("zero_stage=2", "zero_stage=3", "offload=both"):
            override = f"engine.{kind}"
            ended = _spoiled(folder, 2, what, override)
            succeed(ended)
            assert_tells(ended[0], "Skipped (1 of train.max_skipped_steps = 1): Step 3")
            run = folder / f"{what}-2-{override}"
            (skipped,) = read_json(run / "state.json")["progress"]["skipped_steps"]
            assert skipped["step"] == 3
            assert 0 < len(skipped["examples"]) <= 8
            (folder / "run").symlink_to(run)
            own = adapter(folder)
            (folder / "run").unlink()
            gap = max(float((own[n] - expected[n]).abs().max()) for n in own)
            assert gap <= 1e-5, (what, kind, gap)
            largest = max(largest, gap)
    return {"largest_difference": largest}


def _adapter_without_step_3(recipe: Path, folder: Path) -> dict:
    """Return the adapter of a run whose loss alone is NaN in step 3, without DeepSpeed."""
    arguments = ["tests/faults/workers/leave_out.py", str(recipe), str(folder / "run"), "3"]
    succeed(run_ranks([*arguments, "engine.kind=local"], 1, folder=folder))
    own = adapter(folder)
    (folder / "run").rename(folder / "left-out")
    return own
