"""`lope score`: examples ranked by how noisy a run finds them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from typing_extensions import TypedDict

from lope_dist.config.data import SourceConfig
from lope_dist.config.schema import RunConfig
from lope_dist.core.bars import bar
from lope_dist.core.errors import LopeError, suggest
from lope_dist.core.files import write_atomic
from lope_dist.core.runlog import append_line, read_json, write_json
from lope_dist.core.side_files import LogFile
from lope_dist.corpus.corrupt import COLUMN
from lope_dist.corpus.readers import find_rows
from lope_dist.corpus.readers.files import FileRows
from lope_dist.corpus.records import ExampleSource
from lope_dist.engine.world import World
from lope_dist.evaluate.detection import detection
from lope_dist.evaluate.examples import data_fingerprint, first_ids, open_examples
from lope_dist.evaluate.load import PURIFIED, LoadedRun, load_run, load_run_config, run_checkpoint
from lope_dist.evaluate.noise_scores import SCORES, Measures, measure_rows, scores_of
from lope_dist.evaluate.parallel import agreed, is_main, on_main
from lope_dist.evaluate.truth import Truth, read_truth
from lope_dist.train.checkpoint import Checkpoint

FOLDER = "scores"
_PREVIEW = 160  # characters
_BINS = 40


class _Measured(TypedDict):
    example_id: int


@dataclass(frozen=True)
class ScoreRequest:
    """What to rank, and where the ranking goes."""

    data: str
    """Examples in a form that training reads."""
    out: Path
    """A `.jsonl` file; summary (`.json`) and the command's plot (`.png`) come beside it."""
    truth: str | None = None
    """A file whose column `noise` says what was done to each row; None: the data's own column."""
    by: str = "gain"
    """The score that ranks."""
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
        LopeError: not a run, no poisoning expert, an unknown score, data or truth that cannot be
            read, a loss that is not finite, or a file in the place of ``out`` or beside it that no
            earlier call wrote.
    """
    config = load_run_config(run_dir)
    checkpoint = agreed(run_checkpoint(run_dir, request.checkpoint), world)
    _check_poison(run_dir, config, checkpoint)
    if request.by not in SCORES:
        raise LopeError(
            f"--by: '{request.by}' is not known; allowed: {', '.join(SCORES)}."
            f"{suggest(request.by, SCORES)}"
        )
    on_main(world, lambda: _check_out(request))
    source = open_examples(config, request.data)
    ids = first_ids(source, request.limit)
    truth = read_truth(request.data, request.truth, source)
    identity = {
        "fingerprint": data_fingerprint(config, source),
        "adapter_sha256": checkpoint.adapter_sha256,
    }
    load = partial(load_run, run_dir, checkpoint=checkpoint, world=world, base=base)
    measured = _measure(run_dir, request, load, identity, source, ids, world, progress)

    def write() -> dict[str, Any]:
        ranked = _rank([measured[i] for i in ids], source, truth, request.by)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in ranked)
        write_atomic(request.out, "".join(lines))
        has_truth = truth is not None
        summary = {
            "run": str(run_dir),
            "data": request.data,
            **identity,
            "by": request.by,
            **_summary(ranked, request.by, has_truth=has_truth),
        }
        write_json(request.out.with_suffix(".json"), summary)
        return summary

    return on_main(world, write)


def _check_poison(run_dir: Path, config: RunConfig, checkpoint: Checkpoint) -> None:
    if checkpoint.stage == PURIFIED:
        raise LopeError(
            f"'{run_dir}' is purified: its poisoning expert, by which noise is scored, was removed "
            "when it was exported; score with the run that it was exported from."
        )
    if config.adapter.num_poison == 0:
        raise LopeError(
            f"The run '{run_dir}' has no poisoning expert (adapter.num_poison is 0), by which "
            "noise is scored; train one that has, or compare plain losses with `lope loss`."
        )


def _check_out(request: ScoreRequest) -> None:
    out = request.out
    if out.suffix != ".jsonl":
        raise LopeError(f"--out {out}: write a .jsonl file.")
    if out.exists() and not _is_ranking(out):
        raise LopeError(f"--out {out} exists and is no ranking; remove it or give another name.")
    summary, plot = out.with_suffix(".json"), out.with_suffix(".png")
    read = _files_of(request.data) | (_files_of(request.truth) if request.truth else set())
    for path in (out, summary, plot):
        if path.resolve() in read:
            raise LopeError(
                f"--out {out}: {path} would be written, and this call reads it; give another name."
            )
    if summary.exists() and not _is_summary(summary):
        raise LopeError(
            f"--out {out}: the summary goes to {summary}, which exists and is none; remove it or "
            "give another name."
        )
    if plot.exists() and not summary.exists():
        raise LopeError(
            f"--out {out}: the plot goes to {plot}, which exists and belongs to no summary "
            f"{summary.name}; remove it or give another name."
        )


def _is_ranking(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().startswith('{"rank": ')


def _is_summary(path: Path) -> bool:
    try:
        found = read_json(path)
    except LopeError:
        return False
    return isinstance(found, dict) and {"run", "data", "by", "num_unscored"} <= found.keys()


def _files_of(data: str) -> set[Path]:
    found = find_rows(SourceConfig(path=data))
    return {rows.path.resolve() for rows in found if isinstance(rows, FileRows)}


def _measure(
    run_dir: Path,
    request: ScoreRequest,
    load: Callable[..., LoadedRun],
    identity: dict[str, str],
    source: ExampleSource,
    ids: range,
    world: World | None,
    progress: bool,
) -> dict[int, Measures]:
    """Return the measures of the examples asked for, on rank 0; what is not on file is measured.

    Collective: yes, with a ``world``.
    """
    key = hashlib.blake2b(json.dumps(identity).encode(), digest_size=4).hexdigest()
    path = run_dir / FOLDER / f"{Path(request.data).stem}-{key}.jsonl"
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    known: dict[int, Measures] = {}
    writes = is_main(world)

    def missing() -> list[int]:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise LopeError(
                f"Another process scores {request.data} with '{run_dir}' now; wait until it is "
                "done."
            ) from None
        known.update(_known(path))
        return [i for i in ids if i not in known]

    try:
        left = on_main(world, missing)
        if not left:
            return known
        run = load(progress=progress and writes)
        shown = bar(
            "Scoring", len(ids), "rows", done=len(ids) - len(left), is_shown=progress and writes
        )
        with closing(shown):
            examples = [source[i] for i in left]
            for rows in measure_rows(run, examples, batch_size=request.batch_size):
                for row in rows if writes else ():
                    append_line(path, row)
                    known[row["example_id"]] = row
                shown.update(len(rows))
        return known
    finally:
        lock.release()


def _known(path: Path) -> dict[int, Measures]:
    if not path.exists():
        return {}
    rows = LogFile(path.name, _Measured).recover(path.parent)
    # A killed call may have left half a line, and nothing may be appended to that.
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
    return {row["example_id"]: row for row in rows}


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


def _summary(ranked: list[dict[str, Any]], by: str, *, has_truth: bool) -> dict[str, Any]:
    """Return counts, the histogram of the ranking score and, with truth, how well it detects."""
    whole = [row for row in ranked if None not in row["scores"].values()]
    found: dict[str, Any] = {"num_rows": len(ranked), "num_unscored": len(ranked) - len(whole)}
    if not whole:
        return found
    values = np.array([row["scores"][by] for row in whole])
    edges = np.histogram_bin_edges(values, _BINS)
    parts = {"all": np.ones(len(whole), np.bool_)}
    if has_truth:
        is_noisy = np.array([bool(row[COLUMN]) for row in whole])
        parts = {"noisy": is_noisy, "clean": ~is_noisy}
    found["histogram"] = {"edges": [round(float(edge), 6) for edge in edges]} | {
        name: np.histogram(values[part], edges)[0].tolist() for name, part in parts.items()
    }
    if has_truth:
        found["detection"] = detection(
            {name: [row["scores"][name] for row in whole] for name in SCORES},
            [row[COLUMN] for row in whole],
            [row["num_tokens"] for row in whole],
        )
    return found
