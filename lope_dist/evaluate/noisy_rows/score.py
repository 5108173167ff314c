"""`lope score`: examples ranked by how noisy a run finds them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lope_dist.core.errors import LopeError, suggest
from lope_dist.core.files import write_atomic
from lope_dist.core.runlog import write_json
from lope_dist.corpus.corrupt import COLUMN
from lope_dist.corpus.examples.source import ExampleSource
from lope_dist.engine.world import World
from lope_dist.evaluate.loaded.parallel import on_main
from lope_dist.evaluate.losses.examples import first_ids, open_examples
from lope_dist.evaluate.noisy_rows.detection import detection
from lope_dist.evaluate.noisy_rows.measured import chosen_score, measure_on_file, with_copies
from lope_dist.evaluate.noisy_rows.outputs import check_outputs
from lope_dist.evaluate.noisy_rows.scorers import scorer_of_run
from lope_dist.evaluate.noisy_rows.scores import SCORES, Measures, scores_of
from lope_dist.evaluate.noisy_rows.truth import Truth, read_truth

_PREVIEW = 160  # characters
_BINS = 40
_OF_SUMMARY = {"run", "data", "by", "num_unscored"}


@dataclass(frozen=True)
class ScoreRequest:
    """What to rank, and where the ranking goes."""

    data: str
    """Examples in a form that training reads."""
    out: Path
    """A `.jsonl` file; summary (`.json`) and the command's plot (`.png`) come beside it."""
    truth: str | None = None
    """A file whose column `noise` says what was done to each row; None: the data's own column."""
    by: str | None = None
    """The score that ranks; None: the loss of the hardest tenth, masked where the run can be."""
    limit: int | None = None
    """The first so many examples; None: all."""
    batch_size: int = 16
    """Rows of a forward pass at most."""
    checkpoint: str = "last"
    """Which of the run's: `last`, `best`, a number of steps or a folder's name."""


def score_run(
    run_dir: Path,
    request: ScoreRequest,
    *,
    progress: bool = True,
    world: World | None = None,
    base: str = "auto",
) -> dict[str, Any]:
    """Write the examples ranked by noise, and return the summary.

    What the passes measure is kept in `RUN/scores/`, row by row: a second call, with another limit,
    truth or score to rank by, does only what is missing. With a ``world`` its ranks share the
    work, and rank 0 writes; ``base`` as for `load_run`.

    Collective: yes, with a ``world``.

    Raises:
        LopeError: not a run, an unknown score or one of experts that it has not, data or truth
            that cannot be read, a loss that is not finite, or a file in the place of ``out`` or
            beside it that no earlier call wrote.
    """
    scorer = scorer_of_run(run_dir, request.checkpoint, world=world, base=base, progress=progress)
    if request.by is not None and request.by not in SCORES:
        raise LopeError(
            f"--by: '{request.by}' is not known; allowed: "
            f"{', '.join(SCORES)}.{suggest(request.by, SCORES)}"
        )
    beside = [request.out.with_suffix(suffix) for suffix in (".json", ".png")]
    data = (request.data, request.truth)
    on_main(world, lambda: check_outputs(request.out, beside, beside[0], _OF_SUMMARY, data))
    source = open_examples(scorer.config, request.data)
    ids = first_ids(source, request.limit)
    truth = read_truth(request.data, request.truth, source)
    passes = scorer.passes(("base", "masked", "all"))
    if request.by == "ifd":
        passes.append("alone")
    measured = measure_on_file(
        *(scorer, request.data, source, ids, passes),
        batch_size=request.batch_size,
        world=world,
        progress=progress,
    )

    def write() -> dict[str, Any]:
        rows = with_copies([measured[i] for i in ids], source)
        by = chosen_score(request.by, rows[0])
        ranked = _rank(rows, source, truth, by)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in ranked)
        write_atomic(request.out, "".join(lines))
        summary = {
            "run": str(run_dir),
            "data": request.data,
            **scorer.identity_of(source),
            "by": by,
            **summary_of(ranked, by, has_truth=truth is not None),
        }
        write_json(request.out.with_suffix(".json"), summary)
        return summary

    return on_main(world, write)


def _rank(
    measured: Sequence[Measures], source: ExampleSource, truth: list[Truth] | None, by: str
) -> list[dict[str, Any]]:
    """Return the rows of the ranking; those that have no such score come last."""
    scored = [(row, scores_of(row)) for row in measured]
    scored.sort(key=lambda pair: (pair[1][by] is None, -(pair[1][by] or 0.0)))
    ranked = []
    for rank, (row, scores) in enumerate(scored, start=1):
        entry: dict[str, Any] = {"rank": rank, "example_id": row["example_id"], "score": scores[by]}
        if truth is not None:
            entry[COLUMN] = truth[row["example_id"]]
        rounded = {name: None if s is None else round(s, 6) for name, s in scores.items()}
        entry |= {"num_tokens": row["num_tokens"], "scores": rounded}
        ranked.append(entry | {"response": source[row["example_id"]].turns[-1].text[:_PREVIEW]})
    return ranked


def summary_of(ranked: list[dict[str, Any]], by: str, *, has_truth: bool) -> dict[str, Any]:
    """Return counts, the histogram of the ranking score and, with truth, how well it detects."""
    scored = [row for row in ranked if None not in row["scores"].values()]
    summary: dict[str, Any] = {"num_rows": len(ranked), "num_unscored": len(ranked) - len(scored)}
    if not scored:
        return summary
    values = np.array([row["scores"][by] for row in scored])
    edges = np.histogram_bin_edges(values, _BINS)
    parts = {"all": np.ones(len(scored), np.bool_)}
    if has_truth:
        is_noisy = np.array([bool(row[COLUMN]) for row in scored])
        parts = {"noisy": is_noisy, "clean": ~is_noisy}
    summary["histogram"] = {"edges": [round(float(edge), 6) for edge in edges]} | {
        name: np.histogram(values[part], edges)[0].tolist() for name, part in parts.items()
    }
    if has_truth:
        summary["detection"] = detection(
            [row["scores"] for row in scored],
            [row[COLUMN] for row in scored],
            [row["num_tokens"] for row in scored],
        )
    return summary
