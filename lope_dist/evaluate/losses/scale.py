"""`lope scale`: the factor on the adapter's output that suits held-out rows best.

An adapter that was trained long, or on noisy rows, may do better in part. The factor is chosen for
each row of experts alike, so that one method is not tuned and another left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import write_json
from lope_dist.core.side_files import SideFile
from lope_dist.engine.world import World
from lope_dist.evaluate.loaded.load import PURIFIED, load_run_config, run_checkpoint
from lope_dist.evaluate.loaded.parallel import on_main
from lope_dist.evaluate.loaded.rows import rows_for, usual_words
from lope_dist.evaluate.losses.measure import LossRequest, measure_losses

FILE = "scale.json"
GRID = (0.25, 0.5, 0.75, 1.0, 1.25)
USUAL = ("masked", "all")
"""Rows whose scale is chosen where none are named."""


class _Chosen(TypedDict):
    fingerprint: str


@dataclass(frozen=True)
class ScaleRequest:
    """Which rows' scale to choose, on which examples."""

    data: str
    """Examples to choose on, and on no account those that results are reported on."""
    experts: tuple[str, ...] | None = None
    """Words of `rows_for` without a scale; None: those of masked and all that the run has."""
    grid: tuple[float, ...] = GRID
    """Factors to try; 1 is the adapter as it was trained."""
    limit: int | None = None
    """The first so many examples; None: all."""
    batch_size: int = 16
    """Rows of a forward pass at most."""


def choose_scale(
    run_dir: Path,
    request: ScaleRequest,
    *,
    progress: bool = True,
    world: World | None = None,
    base: str = "auto",
) -> dict[str, Any]:
    """Measure the loss at each scale and write the best ones to `RUN/scale.json`.

    The losses are those of `lope loss`, kept in the same file; ``world`` and ``base`` as there.

    Collective: yes, with a ``world``.

    Returns:
        What was written: `rows`: word -> `row` (the word with its scale, as `--experts` takes it),
        `scale`, `loss_per_token`, `curve` of (scale, loss, standard error), of which scale 0 is
        the base model, and `at_edge`: whether the best is an end of the grid.

    Raises:
        LopeError: what `measure_losses` raises, experts that have no scale, or no response token.
    """
    adapter = load_run_config(run_dir).adapter
    is_purified = run_checkpoint(run_dir).stage == PURIFIED
    experts = request.experts or usual_words(USUAL, adapter, is_purified=is_purified)
    words = {word: _words(word, request.grid) for word in experts}
    rows_for(
        [word for scaled in words.values() for word in scaled], adapter, is_purified=is_purified
    )
    row_words = ("none", *(word for scaled in words.values() for word in scaled))
    losses = LossRequest(request.data, row_words, request.limit, request.batch_size)
    table = measure_losses(run_dir, losses, progress=progress, world=world, base=base)
    measured_rows = list(table["rows"].values())  # in the order asked for
    if measured_rows[0]["loss_per_token"] is None:
        raise LopeError(
            f"{request.data}: no response has a token within data.max_length, so no scale is "
            "better than another."
        )
    measured = dict(zip(row_words, measured_rows, strict=True))
    chosen = {
        "data": request.data,
        "fingerprint": table["fingerprint"],
        "num_rows": measured_rows[0]["num_rows"],
        "adapter_sha256": measured_rows[-1]["adapter_sha256"],
        "rows": {
            word: _choice(scaled, request.grid, measured, measured["none"])
            for word, scaled in words.items()
        },
    }
    on_main(world, lambda: write_json(run_dir / FILE, chosen))
    return chosen


def was_chosen_on(run_dir: Path, fingerprint: str) -> bool:
    """Return whether the run's scale was chosen on the data of this fingerprint."""
    chosen = SideFile(FILE, _Chosen).read(run_dir)
    return chosen is not None and chosen["fingerprint"] == fingerprint


def _words(word: str, grid: Sequence[float]) -> list[str]:
    if word in ("none", "base") or "scale=" in word:
        raise LopeError(
            f"--experts {word}: choose the scale of masked, all or another row that has none set; "
            "the base model is measured anyway."
        )
    return [word if scale == 1 else f"{word}:scale={scale:g}" for scale in grid]


def _choice(
    words: Sequence[str],
    grid: Sequence[float],
    measured: dict[str, dict[str, Any]],
    base: dict[str, Any],
) -> dict[str, Any]:
    losses = [measured[word]["loss_per_token"] for word in words]
    best = losses.index(min(losses))
    points = [(0.0, base), *((s, measured[w]) for s, w in zip(grid, words, strict=True))]
    return {
        "row": words[best],
        "scale": grid[best],
        "loss_per_token": losses[best],
        "curve": [
            [s, row["loss_per_token"], row["stderr"]]
            for s, row in sorted(points, key=lambda p: p[0])
        ],
        "at_edge": grid[best] in (min(grid), max(grid)),
    }
