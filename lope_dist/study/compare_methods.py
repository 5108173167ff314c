"""`lope compare`: LoRA, HydraLoRA and LoPE on a sample of the user's rows, within some minutes.

First each method is trained at a few learning rates with one seed. Then each is trained at its best
rate with more seeds, and scored on rows on which nothing was chosen. The first run is measured, and
the plan for the others follows from it. All runs are cells of two studies. So after a stop, or with
more minutes, the same command continues.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lope_dist.config.schema import RunConfig
from lope_dist.core.console import tell
from lope_dist.core.errors import LopeError, Preempted
from lope_dist.study.cells import Study
from lope_dist.study.changes import diverged
from lope_dist.study.clock import FACTORS, MOST_SEEDS, STOPPING_S, Clock, plan
from lope_dist.study.method_studies import CHOOSE_ON, JUDGED, MethodStudies
from lope_dist.study.methods import ANSWER, METHODS, last_rate, refuse_other_adapters
from lope_dist.study.observe import observe
from lope_dist.study.recommend import recommend
from lope_dist.study.records import RECORDS
from lope_dist.study.report import FOLDER, write_study_report
from lope_dist.study.run import RunRequest, run_study
from lope_dist.study.sample import draw_sample
from lope_dist.study.steps import recorded_seconds
from lope_dist.study.summary import Summary, summarize


@dataclass(frozen=True)
class CompareRequest:
    """The limits of a comparison."""

    minutes: float
    """All of it ends within them."""
    num_rows: int
    """Rows of the sample at most."""
    folder: Path
    """Where all of it goes."""
    since_start_s: float = 0.0
    """Seconds of the minutes that were used before this call."""


def compare_methods(config: RunConfig, request: CompareRequest) -> dict[str, Any]:
    """Train and score what fits into the minutes; return the table and the recommendation.

    Raises:
        LopeError: a recipe that is not of LoPE, too few rows, a folder of another comparison, or a
            run that failed.
        Preempted: not every method could be trained once; the same call goes on from there.
    """
    clock = Clock(request.minutes, request.since_start_s)
    refuse_other_adapters(config)
    sample = draw_sample(config, request.num_rows, request.folder)
    studies = MethodStudies(config, sample, request.folder)
    studies.write_recipe()
    tell(
        f"{sample.num_trained} rows to train on, {sample.num_choose_on} to choose learning rates "
        f"on, {sample.num_judged} to judge on; at most {request.minutes:g} minutes. All runs are "
        f"in {request.folder}."
    )
    factors = _search(studies, clock)
    chosen = _best(studies, factors)
    num_seeds = _add_seeds(studies, chosen, clock)
    study = studies.judged(chosen, num_seeds)
    summary = summarize(study)
    page = write_study_report(study)
    return _outcome(studies, factors, chosen, summary) | {"page": str(page)}


def _run(
    clock: Clock, study: Study, *, keep_scoring: bool = False, may_diverge: bool = False
) -> bool:
    """Run a study's cells one after the other; return whether all of them are done.

    Args:
        clock: How much time there is; it learns how long each run takes.
        study: Whose cells.
        keep_scoring: Stop while there is time left to score the best run of each method.
        may_diverge: A run that diverged is done, and not an error.

    Raises:
        LopeError: one failed.
        Preempted: a signal came.
    """
    for cell in study.cells:
        if may_diverge and diverged(cell):
            continue
        was_trained = (cell.folder / RECORDS / "train.json").exists()
        left = clock.left_for_search if keep_scoring else clock.left
        end = time.monotonic() + left
        outcome = run_study(
            study, RunRequest(stop_after_s=left, only=cell.name, grace_s=STOPPING_S)
        )
        if may_diverge and diverged(cell):
            continue
        for name, message in outcome.failed.items():
            raise LopeError(f"The run {name} failed: {message} ({cell.folder / RECORDS})")
        if outcome.left and time.monotonic() < end:
            raise Preempted("Stopped by a signal. The same command continues from there.")
        if outcome.left:
            return False
        clock.add(cell.name, recorded_seconds(study, cell))
        if not was_trained and not clock.has_forecast:
            tell(clock.forecast())
    return True


def _search(studies: MethodStudies, clock: Clock) -> tuple[float, ...]:
    """Train all methods at one learning rate after the other; return those that all were at."""
    done: list[float] = []
    for factor in FACTORS:
        if clock.has_measured and len(done) >= plan(clock.num_runs).num_rates:
            break
        study = studies.search([*done, factor])
        if not _run(clock, study, keep_scoring=bool(done), may_diverge=True):
            break
        done.append(factor)
    if not done:
        raise _too_short()
    return tuple(done)


def _best(studies: MethodStudies, factors: tuple[float, ...]) -> dict[str, float]:
    """Return for each method the factor of least loss on the rows to choose on.

    Raises:
        LopeError: a method diverged at all of them.
    """
    observations = observe(studies.search(factors))
    gone = _diverged(studies, factors)
    seed = studies.config.seed

    def loss(method: str, factor: float) -> float:
        series = observations.series(studies.name(method, factor), ANSWER[method], CHOOSE_ON)
        return series[seed].value

    best = {}
    for method in METHODS:
        left = [factor for factor in factors if factor not in gone[method]]
        if not left:
            raise LopeError(
                f"{METHODS[method]} diverged at every learning rate that was tried "
                f"({_rates(studies, factors)}); give the recipe's last stage a smaller lr, and "
                "another --out."
            )
        best[method] = min(left, key=lambda factor, m=method: loss(m, factor))
    return best


def _diverged(studies: MethodStudies, factors: Sequence[float]) -> dict[str, list[float]]:
    """Return for each method the factors at which its training diverged."""
    cells = {cell.group.name: cell for cell in studies.search(factors).cells}
    return {m: [f for f in factors if diverged(cells[studies.name(m, f)])] for m in METHODS}


def _rates(studies: MethodStudies, factors: Sequence[float]) -> str:
    rate = last_rate(studies.config)
    return ", ".join(f"{rate * factor:.2g}" for factor in sorted(factors))


def _add_seeds(studies: MethodStudies, chosen: dict[str, float], clock: Clock) -> int:
    """Train the methods with one seed after the other; return with how many all of them were."""
    if not _run(clock, studies.judged(chosen, 1)):
        raise _too_short()
    num_seeds = 1
    while num_seeds < MOST_SEEDS and clock.left > len(METHODS) * clock.run_seconds:
        if not _run(clock, studies.judged(chosen, num_seeds + 1)):
            break
        num_seeds += 1
    return num_seeds


def _too_short() -> Preempted:
    return Preempted(
        "The time ended before every method was trained and scored once. The same command "
        "continues from there. To finish in one call, give more --minutes, or fewer --rows and "
        "another --out."
    )


def _outcome(
    studies: MethodStudies, factors: tuple[float, ...], chosen: dict[str, float], summary: Summary
) -> dict[str, Any]:
    """Return what a comparison found, ready for JSON."""
    rate = last_rate(studies.config)
    return {
        "rows": [_row(row) for row in summary["rows"] if JUDGED in row["figures"]],
        "recommendation": recommend(summary["claims"], len(summary["seeds"])),
        "claims": summary["claims"],
        "seeds": summary["seeds"],
        "tried_rates": [rate * factor for factor in sorted(factors)],
        "chosen_rates": {method: rate * factor for method, factor in chosen.items()},
        "notes": _notes(studies, factors, chosen),
        "plot": str(studies.folder / FOLDER / "compare" / "loss-held-out.png"),
    }


def _row(row: dict[str, Any]) -> dict[str, Any]:
    figure = row["figures"][JUDGED]
    label = "base model" if row["row"] == "base" else row["label"]
    return {
        "label": label,
        "experts": row["row"],
        "loss": figure["mean"],
        "sd": figure["sd"],
        "against_lora": figure["against_baseline"],
    }


def _notes(
    studies: MethodStudies, factors: tuple[float, ...], chosen: dict[str, float]
) -> list[str]:
    """Return what a reader has to know of the figures."""
    notes = []
    if studies.sample.from_training_rows:
        notes.append(
            "The held-out rows are as noisy as those that were trained on; to judge on clean rows, "
            "give some as data.validation.path."
        )
    if len(factors) == 1:
        notes.append("Only the recipe's learning rate was tried: the time was short.")
    for method, gone in _diverged(studies, factors).items():
        if gone:
            notes.append(f"{METHODS[method]} diverged at {_rates(studies, gone)}.")
    ends = {min(factors), max(factors)}
    edge = [METHODS[m] for m, f in chosen.items() if len(factors) > 1 and f in ends]
    if edge:
        notes.append(
            f"The best learning rate of {', '.join(edge)} is at the end of those that were tried; "
            "one beyond may be better."
        )
    return notes
