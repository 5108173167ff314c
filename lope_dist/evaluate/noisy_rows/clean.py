"""`lope clean`: the rows of a file without those that look noisy, and why each of these went."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic
from lope_dist.core.runlog import write_json
from lope_dist.corpus.examples.source import ExampleSource
from lope_dist.corpus.rows.writing import row_line
from lope_dist.engine.world import World
from lope_dist.evaluate.loaded.parallel import on_main
from lope_dist.evaluate.losses.examples import open_examples
from lope_dist.evaluate.noisy_rows.detection import detection
from lope_dist.evaluate.noisy_rows.measured import (
    Scorer,
    chosen_score,
    measure_on_file,
    with_copies,
)
from lope_dist.evaluate.noisy_rows.outputs import check_outputs
from lope_dist.evaluate.noisy_rows.scores import Measures, scores_of
from lope_dist.evaluate.noisy_rows.truth import Truth, read_truth, rows_of
from lope_dist.evaluate.noisy_rows.worst import worst_rows

PASSES = ("base", "alone", "masked", "all")
REASON = "lope_clean"
"""The column of a dropped row that says why."""
CLEAN_QUANTILE = 0.95
"""Share of the rows of `--clean` that the threshold found from them keeps."""
SHOWN = 50
"""Rows on the page."""
_Location = tuple[str, int]
_OF_SUMMARY = {"cleaned", "scorer", "worst"}


@dataclass(frozen=True)
class CleanRequest:
    """What to clean, and by what."""

    data: str
    """Examples in a form that training reads."""
    out: Path
    """A `.jsonl` file for the rows that stay; the others, a summary and a page come beside it."""
    drop: float | None = None
    """Share of the rows that goes, the noisiest ones."""
    clean: str | None = None
    """A file of rows known to be clean, from which the threshold is found."""
    by: str | None = None
    """The score that decides; None: the loss of the hardest tenth, masked where that can be."""
    duplicates: bool = False
    """Whether later copies of a row go too."""
    truth: str | None = None
    """A file whose column `noise` says what was done to each row; None: the data's own column."""
    batch_size: int = 16
    """Rows of a forward pass at most."""


def clean_file(
    scorer: Scorer,
    request: CleanRequest,
    *,
    world: World | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the rows that stay, and beside them those that go and a summary; return the latter.

    What the passes measure is kept on file, so a call that was stopped goes on, and another score
    or share costs nothing. With a ``world`` its ranks share the work, and rank 0 writes.

    Collective: yes, with a ``world``.

    Raises:
        LopeError: neither or both of `drop` and `clean`, an unknown score, data or truth that
            cannot be read, a column that cannot be written, a loss that is not finite, or files in
            the way.
    """
    _check(request)
    paths = outputs(request.out)
    data = (request.data, request.clean, request.truth)
    on_main(
        world,
        lambda: check_outputs(request.out, paths.values(), paths["summary"], _OF_SUMMARY, data),
    )
    on_main(world, lambda: _check_rows(request.data))
    source = open_examples(scorer.config, request.data)
    truth = read_truth(request.data, request.truth, source)
    clean = None if request.clean is None else open_examples(scorer.config, request.clean)
    passes = scorer.passes(PASSES)

    def measure(data: str, rows: ExampleSource) -> dict[int, Measures]:
        return measure_on_file(
            *(scorer, data, rows, range(len(rows)), passes),
            batch_size=request.batch_size,
            world=world,
            progress=progress,
        )

    measured = measure(request.data, source)
    of_clean = {} if clean is None or request.clean is None else measure(request.clean, clean)

    def write() -> dict[str, Any]:
        rows = with_copies([measured[i] for i in range(len(source))], source)
        by = chosen_score(request.by, rows[0])
        threshold = None
        if clean is not None:
            clean_rows = with_copies([of_clean[i] for i in range(len(clean))], clean)
            of_clean_row = _by_row(clean, [scores_of(row)[by] for row in clean_rows])
            threshold = _threshold(list(of_clean_row.values()), request.clean)
        scores = [scores_of(row) for row in rows]
        of_row = _by_row(source, [of_example[by] for of_example in scores])
        reasons = _reasons(of_row, by, request.drop, threshold)
        if request.duplicates:
            reasons = _copies(source, rows) | reasons
        counts = _write_rows(request.data, paths, reasons)
        summary = {
            "cleaned": str(request.out),
            "scorer": scorer.name,
            "data": request.data,
            "by": by,
            "threshold": threshold,
            **scorer.identity_of(source),
            **counts,
            **_against_truth(source, scores, rows, truth, reasons),
            "worst": worst_rows(scorer.config, source, rows, of_row, by, SHOWN),
        }
        write_json(paths["summary"], summary)
        return {key: value for key, value in summary.items() if key != "worst"}

    return on_main(world, write)


def outputs(out: Path) -> dict[str, Path]:
    """Return where everything goes."""
    names = {"dropped": ".dropped.jsonl", "summary": ".json", "page": ".html"}
    return {"kept": out} | {name: out.with_suffix(suffix) for name, suffix in names.items()}


def _check(request: CleanRequest) -> None:
    if (request.drop is None) == (request.clean is None):
        given = "neither is" if request.drop is None else "both are"
        raise LopeError(
            "Give one of --drop SHARE and --clean FILE, which decide how many rows are dropped; "
            f"{given} given."
        )
    if request.drop is not None and not 0 < request.drop < 1:
        raise LopeError(f"--drop {request.drop:g}: write a share between 0 and 1, as in 0.1.")


def _threshold(scores: Sequence[float], name: str | None) -> float:
    if not scores:
        raise LopeError(f"--clean {name}: none of its rows has this score; take another --by.")
    return float(np.quantile(scores, CLEAN_QUANTILE, method="higher"))


def _by_row(source: ExampleSource, scores: Sequence[float | None]) -> dict[_Location, float]:
    """Return the score of each row that has one: that of its noisiest example."""
    by_location: dict[_Location, float] = {}
    for number, score in enumerate(scores):
        if score is not None:
            location = source.location(number)
            by_location[location] = max(score, by_location.get(location, -math.inf))
    return by_location


def _reasons(
    of_row: Mapping[_Location, float], by: str, drop: float | None, threshold: float | None
) -> dict[_Location, dict[str, Any]]:
    """Return the rows that go, and why; of equal scores the earlier rows stay."""
    order = sorted(of_row, key=of_row.__getitem__)[::-1]
    if drop is not None:
        order = order[: math.floor(drop * len(of_row))]
    elif threshold is not None:
        order = [location for location in order if of_row[location] > threshold]
    return {
        location: {"reason": by, "score": round(of_row[location], 6), "rank": rank}
        for rank, location in enumerate(order, start=1)
    }


def _copies(source: ExampleSource, rows: Sequence[Measures]) -> dict[_Location, dict[str, Any]]:
    return {
        source.location(n): {"reason": "copy", "copies_before": row["copies"]}
        for n, row in enumerate(rows)
        if row["copies"]
    }


def _write_rows(
    data: str, paths: Mapping[str, Path], reasons: Mapping[_Location, dict[str, Any]]
) -> dict[str, Any]:
    """Write the rows that stay and those that go, each with all its columns, in their order."""
    kept, dropped, num_unreadable = [], [], 0
    for location, row in rows_of(data):
        if not isinstance(row, dict):
            num_unreadable += 1
        elif location in reasons:
            reason = reasons[location] | {"row": location[1]}
            dropped.append(row_line(row | {REASON: reason}, _said(location)))
        else:
            kept.append(row_line(row, _said(location)))
    write_atomic(paths["kept"], "".join(kept))
    write_atomic(paths["dropped"], "".join(dropped))
    counts = Counter(reason["reason"] for reason in reasons.values())
    return {
        "num_rows": len(kept) + len(dropped) + num_unreadable,
        "num_kept": len(kept),
        "num_unreadable": num_unreadable,
        "dropped": dict(counts),
    }


def _check_rows(data: str) -> None:
    """Refuse rows that could not be written, before a model is asked about them."""
    for location, row in rows_of(data):
        if isinstance(row, dict):
            if REASON in row:
                raise LopeError(f"{data} has a column '{REASON}' already; rename or remove it.")
            row_line(row, _said(location))


def _said(location: _Location) -> str:
    return f"{location[0]}, row {location[1]}"


def _against_truth(
    source: ExampleSource,
    scores: Sequence[Mapping[str, float | None]],
    rows: Sequence[Measures],
    truth: Sequence[Truth] | None,
    reasons: Mapping[_Location, Any],
) -> dict[str, Any]:
    """Return how well each score detects, and what was dropped, where the truth is known."""
    if truth is None:
        return {}
    is_dropped = [source.location(n) in reasons for n in range(len(rows))]
    noisy = [bool(operations) for operations in truth]
    hits = sum(a and b for a, b in zip(is_dropped, noisy, strict=True))
    return {
        "detection": detection(scores, truth, [row["num_tokens"] for row in rows]),
        "noisy_dropped": {"of_noisy": sum(noisy), "of_dropped": sum(is_dropped), "both": hits},
    }
