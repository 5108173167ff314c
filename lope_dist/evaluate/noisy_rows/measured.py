"""What passes of a model measured of rows, kept on file: a call does only what is missing."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from lope_dist.config.schema import RunConfig
from lope_dist.core.bars import bar
from lope_dist.core.errors import LopeError, suggest
from lope_dist.core.files import write_atomic
from lope_dist.core.locks import file_lock
from lope_dist.core.runlog import append_line
from lope_dist.core.side_files import LogFile
from lope_dist.corpus.examples.source import ExampleSource
from lope_dist.corpus.rows.turns import Example
from lope_dist.engine.exchange import refuse_unlike
from lope_dist.engine.world import World
from lope_dist.evaluate.loaded.load import LoadedRun
from lope_dist.evaluate.loaded.parallel import is_main, on_main
from lope_dist.evaluate.loaded.rows import usual_words
from lope_dist.evaluate.losses.examples import data_fingerprint
from lope_dist.evaluate.noisy_rows.scores import (
    MEASURES_FORM,
    PASSES,
    Measures,
    is_measured,
    measure_rows,
    scores_of,
)


class _Measured(TypedDict):
    example_id: int


@dataclass(frozen=True)
class Scorer:
    """Who measures rows: a run, or a base model alone."""

    config: RunConfig
    is_purified: bool
    name: str
    """A run's folder, or a model's name."""
    identity: dict[str, str]
    """What its losses depend on beside the rows."""
    folder: Path
    """Where its measures are kept."""
    load: Callable[[], LoadedRun]
    has_experts: bool = True
    """Whether there is anything beside the base model."""

    def passes(self, names: Sequence[str]) -> list[str]:
        """Return those of the passes whose experts are there."""
        words = {"none"}
        if self.has_experts:
            asked_for = list(dict.fromkeys(PASSES[name] for name in names))
            words = set(usual_words(asked_for, self.config.adapter, is_purified=self.is_purified))
        return [name for name in names if PASSES[name] in words]

    def identity_of(self, source: ExampleSource) -> dict[str, str]:
        """Return what the losses of these rows depend on."""
        return {"fingerprint": data_fingerprint(self.config, source), **self.identity}


def measure_on_file(
    scorer: Scorer,
    data: str,
    source: ExampleSource,
    ids: range,
    passes: Sequence[str],
    *,
    batch_size: int,
    world: World | None,
    progress: bool,
) -> dict[int, Measures]:
    """Return the measures of the examples asked for, on rank 0; what is not on file is measured.

    Collective: yes, with a ``world``.

    Raises:
        LopeError: another process measures the same, or ranks have other rows; what `measure_rows`
            raises.
    """
    identity = scorer.identity_of(source)
    refuse_unlike(identity, world, f"give all hosts the same {data} and the same base")
    text = json.dumps([identity, MEASURES_FORM])
    key = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    path = scorer.folder / f"{Path(data).stem}-{key}.jsonl"
    lock = file_lock(path.with_name(f".{path.name}.lock"), waits=False)
    measured: dict[int, Measures] = {}
    writes = is_main(world)

    def missing() -> list[int]:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.enter_context(lock)
        except BlockingIOError:
            raise LopeError(
                f"Another process scores {data} with '{scorer.name}' now; wait until it is done."
            ) from None
        measured.update(_on_file(path))
        return [i for i in ids if i not in measured or not is_measured(measured[i], passes)]

    with ExitStack() as held:
        missing_ids = on_main(world, missing)
        if not missing_ids:
            return measured
        run = scorer.load()
        progress_bar = bar(
            "Scoring",
            len(ids),
            "rows",
            done=len(ids) - len(missing_ids),
            is_shown=progress and writes,
        )
        with closing(progress_bar):
            examples = [source[i] for i in missing_ids]
            for rows in measure_rows(run, examples, passes, batch_size=batch_size):
                for row in rows if writes else ():
                    append_line(path, row)
                    measured[row["example_id"]] = row
                progress_bar.update(len(rows))
        return measured


def chosen_score(name: str | None, row: Measures) -> str:
    """Return the score to rank by: what is asked for, else the best one that a row has.

    Raises:
        LopeError: none of this name, or one of a pass that this scorer cannot make.
    """
    available = scores_of(row)
    if name is None:
        return next(iter(available))
    if name not in available:
        raise LopeError(
            f"--by: '{name}' is not known here; allowed: {', '.join(available)}."
            f"{suggest(name, available)}"
        )
    return name


def with_copies(measured: Sequence[Measures], source: ExampleSource) -> list[Measures]:
    """Return the measures, each with how many earlier rows of the file say the same.

    A row says what all of its examples say. Case and white space make no difference.
    """
    locations = [source.location(row["example_id"]) for row in measured]
    said: dict[tuple[str, int], Any] = {}
    for row, location in zip(measured, locations, strict=True):
        digest = said.setdefault(location, hashlib.blake2b(digest_size=16))
        digest.update(_text(source[row["example_id"]]).encode())
    num_before: Counter[bytes] = Counter()
    copies = {}
    for location, digest in said.items():
        copies[location] = num_before[digest.digest()]
        num_before[digest.digest()] += 1
    pairs = zip(measured, locations, strict=True)
    return [row | {"copies": copies[location]} for row, location in pairs]


def _text(example: Example) -> str:
    """Return all that an example says, its tools and what turns say beside their texts too."""
    beside = [[turn.more for turn in example.turns], example.tools, example.tokens]
    texts = [f"{turn.role}\n{turn.context}\n{turn.text}" for turn in example.turns]
    texts.append(json.dumps(beside, sort_keys=True, default=str, ensure_ascii=False))
    return "".join(" ".join(text.casefold().split()) + "\0" for text in texts)


def _on_file(path: Path) -> dict[int, Measures]:
    if not path.exists():
        return {}
    rows: list[Any] = LogFile(path.name, _Measured).recover(path.parent)
    # A killed call may have left half a line, and nothing may be appended to that.
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
    return {row["example_id"]: row for row in rows}
