"""The data files that a study makes: some rows of a file, with noise or without, or cleaned."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lope_dist.config.data import SourceConfig
from lope_dist.config.load import dump_config
from lope_dist.core.console import tell
from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic
from lope_dist.core.fingerprint import fingerprint
from lope_dist.core.runlog import write_json
from lope_dist.core.side_files import SideFile
from lope_dist.corpus.corrupt import corrupt_file
from lope_dist.corpus.rows.readers import find_rows
from lope_dist.corpus.rows.writing import row_line
from lope_dist.study.cells import Study
from lope_dist.study.children import Child
from lope_dist.study.schema import CleaningConfig, FileConfig

_POLL_S = 0.2
_LATER = ("template_arguments", "template_date", "max_length")
"""Of `data`, what decides the scores of a cleaning; earlier files do not say it."""


def make_files(study: Study, *, again: bool = False) -> list[str]:
    """Make the files that are not there yet; return their names.

    Args:
        study: Whose.
        again: Make anew those whose description or source changed since.

    Raises:
        LopeError: a source that is absent or too short, or, without ``again``, a change.
    """
    made: list[str] = []
    for name in study.config.files:
        _make(study, name, again, made, ())
    return made


def _make(study: Study, name: str, again: bool, made: list[str], above: tuple[str, ...]) -> None:
    """Make a file, and before it the one that it is made from."""
    if name in above:
        raise LopeError(f"{study.path}: files.{name} is made from itself.")
    config = study.config.files[name]
    if config.source in study.config.files:
        _make(study, config.source, again, made, (*above, name))
    source, target = study.data_file(config.source), study.data_file(name)
    now = _description(study, config, source)
    record = _record(target)
    made_from = SideFile(record.name, dict[str, Any]).read(record.parent)
    if target.exists() and made_from is not None:  # else it was not made to its end
        changes = _changes(made_from, now)
        if not changes:
            return
        if not again:
            raise LopeError(
                f"{target} was made otherwise ({'; '.join(changes)}); run with --redo-changed to "
                "make it and the runs that used it again, or set output_dir to another folder."
            )
    record.unlink(missing_ok=True)
    target.unlink(missing_ok=True)
    if config.clean is None:
        _write(config, source, target)
    else:
        _clean(study, config.clean, source, target)
    write_json(record, now)
    made.append(name)


def _record(target: Path) -> Path:
    return target.with_suffix(".made.json")


def _description(study: Study, config: FileConfig, source: Path) -> dict[str, Any]:
    source_fingerprint = fingerprint([source])
    if source_fingerprint is None:
        raise LopeError(
            f"The data file '{source}' does not exist; give its path in `files`, or set LOPE_DATA "
            "to the folder of the data sets."
        )
    tree = config.model_dump(mode="json")
    tree |= {"source": source.name, "source_fingerprint": source_fingerprint}
    if config.clean is not None:
        recipe = study.recipe()
        tree["scored_by"] = recipe.model.model_dump(mode="json")
        tree["template"] = recipe.data.template
        tree |= {key: getattr(recipe.data, key) for key in _LATER}
    return tree


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [
        f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and (key in before or key not in _LATER)
    ]


def _write(config: FileConfig, source: Path, target: Path) -> None:
    rows = _rows(config, source)
    if config.noise is None:
        _write_rows(target, rows)
        return
    clean = target.with_suffix(".clean.jsonl")
    try:
        _write_rows(clean, rows)
        corrupt_file(clean, target, config.noise, config.noise_seed, progress=False)
    finally:
        clean.unlink(missing_ok=True)


def _clean(study: Study, config: CleaningConfig, source: Path, target: Path) -> None:
    """Run `lope clean`; its list of dropped rows, summary and page come beside the file."""
    recipe = target.with_suffix(".recipe.yaml")
    write_atomic(recipe, dump_config(study.recipe()))
    arguments = ["clean", str(source), "--model", str(recipe), "--out", str(target)]
    arguments += ["--drop", str(config.drop), *(["--by", config.by] if config.by else [])]
    tell(f"Cleaning {source} into {target.name}")
    child = Child(arguments, target.with_suffix(".log"), os.cpu_count() or 1, grace_s=0)
    try:
        while (status := child.poll()) is None:
            time.sleep(_POLL_S)
    finally:
        child.stop()
    if status:
        raise LopeError(
            f"{target}: `lope clean` ended with status {status}: {child.last_lines()[-1]}; see "
            f"{child.log}."
        )


def _rows(config: FileConfig, source: Path) -> list[dict[str, Any]]:
    config_of_source = SourceConfig(path=str(source))
    rows = [row for file in find_rows(config_of_source) for _, row in file.read(list)]
    if config.max_characters is not None:
        rows = [row for row in rows if _num_characters(row) <= config.max_characters]
    if config.rows is None:
        return rows
    first, end = config.rows
    if end > len(rows):
        raise LopeError(
            f"{source}: rows = [{first}, {end}] of {len(rows)} rows that are short enough; ask "
            "for fewer, or allow more in max_characters."
        )
    return rows[first:end]


def _num_characters(row: dict[str, Any]) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str))


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    lines = (row_line(row, f"{path}, row {n}") for n, row in enumerate(rows, start=1))
    write_atomic(path, "".join(lines))
