"""A sample of a recipe's rows: to train on, to choose learning rates on, and to judge on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lope_dist.config.data import DataConfig
from lope_dist.config.schema import RunConfig
from lope_dist.core.console import tell
from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic
from lope_dist.corpus.rows.readers import find_rows
from lope_dist.corpus.rows.writing import row_line
from lope_dist.study.schema import FileConfig
from lope_dist.train.premises.data import opened

_TRAINED = 0.75
"""Share of the sample that is trained on; the rest is for choosing and judging."""
_LEAST_HELD_OUT = 8
"""Least number of rows to choose on, and of rows to judge on."""


@dataclass(frozen=True)
class Sample:
    """The files of a comparison, as a study describes them."""

    files: dict[str, FileConfig]
    num_trained: int
    """Rows to train on: whole batches, so that all methods take the same steps."""
    num_choose_on: int
    num_judged: int
    from_training_rows: bool
    """Whether the rows to judge on are among the recipe's training rows, and as noisy as those."""


def draw_sample(config: RunConfig, num_rows: int, folder: Path) -> Sample:
    """Write a sample of at most so many of a recipe's rows; return it as files of a study.

    Rows that the recipe's runs would leave out as bad are not drawn. What JSON cannot hold, such as
    bytes or NaN, becomes null, and its column is told. Where the recipe has
    `data.validation.path`, rows to choose and to judge on come from there.

    Raises:
        LopeError: several sources, rows that a run would refuse, too few rows, or other rows than
            those that are there.
    """
    if config.data.sources:
        raise LopeError(
            "lope compare reads one source, and the recipe has data.sources; set data.path instead."
        )
    batch = config.train.global_batch
    apart = config.data.of_validation
    if apart is not None:
        _refuse_other_looks(config.data, apart)
    rows = _drawn(config, config.data, num_rows)
    num_trained = int(len(rows) * (_TRAINED if apart is None else 1)) // batch * batch
    held_out = rows[num_trained:]
    if apart is not None:
        trained = {*map(_line, rows[:num_trained])}
        drawn = _drawn(config, apart, num_rows)
        held_out = [row for row in drawn if _line(row) not in trained][: num_rows // 4]
    if num_trained == 0 or len(held_out) < 2 * _LEAST_HELD_OUT:
        raise LopeError(
            f"lope compare has {len(rows)} different rows of data.path, which leaves {num_trained} "
            f"to train on in batches of train.global_batch = {batch} and {len(held_out)} to hold "
            f"out; it needs {batch} and {2 * _LEAST_HELD_OUT}. Give more rows, a larger --rows, or "
            "a smaller train.global_batch."
        )
    half = len(held_out) // 2
    parts = {
        "train": rows[:num_trained],
        "choose_on": held_out[:half],
        "held_out": held_out[half:],
    }
    files = {}
    for name, part in parts.items():
        source = folder / "rows" / f"{name}.jsonl"
        _write(source, part)
        files[name] = FileConfig(source=str(source))
    return Sample(
        files, num_trained, len(parts["choose_on"]), len(parts["held_out"]), apart is None
    )


def _refuse_other_looks(data: DataConfig, apart: DataConfig) -> None:
    """Refuse rows that the runs could not read: a file of the sample is read as the training rows.

    Raises:
        LopeError: one of the settings that say what rows look like differs.
    """
    read_as = data.of_file("sample.jsonl")
    for key in ("format", "columns", "roles", "message_keys"):
        given, needed = getattr(apart, key), getattr(read_as, key)
        if given != needed:
            raise LopeError(
                f"lope compare reads held-out rows as it reads the rows to train on, and "
                f"data.validation.{key} = {given!r} differs from data.{key} = {needed!r}; write "
                "those rows in the same form, or leave data.validation out."
            )


def _drawn(config: RunConfig, data: DataConfig, num_rows: int) -> list[dict[str, Any]]:
    """Return different good rows of a source in an order drawn from the recipe's seed."""
    whole = data.model_copy(update={"validation": None})
    _, source, _ = opened(config.model_copy(update={"data": whole}))
    good = {source.location(index) for index in range(len(source))}
    (only_source,) = data.all_sources
    emptied: set[str] = set()
    good_rows = [
        _writable(row, emptied)
        for file in find_rows(only_source)
        for number, row in file.read(list)
        if (file.name, number) in good and isinstance(row, dict)
    ]
    key = "data.path" if data is config.data else "data.validation.path"
    for column in sorted(emptied):
        tell(
            f"{key}: what JSON cannot hold in the column '{column}', such as bytes or NaN, is null "
            "in the sample."
        )
    rows = [*{_line(row): row for row in good_rows}.values()]
    return random.Random(config.seed).sample(rows, min(num_rows, len(rows)))


def _writable(row: dict[str, Any], emptied: set[str]) -> dict[str, Any]:
    """Return a row with null for what JSON cannot hold; add the columns concerned to a set."""
    if _is_writable(row):
        return row
    columns = [column for column, value in row.items() if not _is_writable({column: value})]
    emptied.update(columns)
    return row | {column: _without_unwritable(row[column]) for column in columns}


def _without_unwritable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_unwritable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [*map(_without_unwritable, value)]
    return value if _is_writable({"value": value}) else None


def _is_writable(row: dict[str, Any]) -> bool:
    try:
        _line(row)
    except LopeError:
        return False
    return True


def _line(row: dict[str, Any]) -> str:
    return row_line(row, "data.path")


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows, or find the same ones there."""
    text = "".join(map(_line, rows))
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise LopeError(
            f"{path} holds other rows than this command draws; give another folder with --out, or "
            "remove that one."
        )
    write_atomic(path, text)
