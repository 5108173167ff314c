"""How a run that is there differs from its cell as it is described now, and what it has settled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lope_dist.config.data import DataConfig
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.fingerprint import fingerprint
from lope_dist.core.side_files import MANIFEST, SideFile
from lope_dist.corpus.rows.readers import find_rows, is_meant_as_a_path
from lope_dist.corpus.rows.readers.files import FileRows
from lope_dist.study.cells import Cell, Study
from lope_dist.study.records import RECORDS
from lope_dist.train.checkpoint.method import method_differences
from lope_dist.train.checkpoint.recorded import load_recorded

STARTED = SideFile("started.json", dict[str, Any])
"""With which inputs a run was started."""


def training_inputs(config: RunConfig) -> dict[str, Any]:
    """Return the fingerprints of the local files that a run trains on, and of those it stops by.

    None: there are none, such as of a data set of the hub, or they are gone.
    """
    inputs = {"data": _fingerprint(config.data)}
    apart = config.data.of_validation
    if apart is not None and config.train.early_stopping is not None:
        inputs["validation"] = _fingerprint(apart)
    return inputs


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names of inputs that differ; None, or one that is not recorded, is unknown."""
    known = [n for n in now if before.get(n) is not None and now[n] is not None]
    return [name for name in known if before[name] != now[name]]


def changes_of(cell: Cell) -> list[str]:
    """Return how the run in a cell's folder differs from the cell; nothing where there is none.

    A cell without `data.template_date` takes the day on which its run began.
    """
    try:
        before = _recorded(cell)
    except LopeError as error:
        return [str(error)]
    if before is None:
        return []
    then, now = before.model_dump(mode="json"), cell.config.model_dump(mode="json")
    if now["data"]["template_date"] is None:
        now["data"]["template_date"] = then["data"]["template_date"]
    changes = method_differences(then, now)
    started, inputs = STARTED.read(cell.folder / RECORDS) or {}, training_inputs(cell.config)
    return changes + [
        f"training data: fingerprint of {name} {started[name]} -> {inputs[name]}"
        for name in differing(started, inputs)
    ]


def with_date(study: Study, cell: Cell) -> RunConfig:
    """Return a cell's configuration with the date that chat templates see in the study's runs.

    Its own run has settled it, or else another one of the same model; None before the first.
    """
    config, data = cell.config, cell.config.data
    if data.template != "chat" or data.template_date is not None:
        return config
    model = config.model.name_or_path
    others = (c for c in (*study.tries, *study.cells) if c.config.model.name_or_path == model)
    days = (_date_of(one) for one in (cell, *others))
    day = next((day for day in days if day is not None), None)
    return config.model_copy(update={"data": data.model_copy(update={"template_date": day})})


def diverged(cell: Cell) -> bool:
    """Tell whether a cell's training, as it is described now, last ended in divergence."""
    starts = (MANIFEST.read(cell.folder) or {"starts": []})["starts"]
    return bool(starts) and starts[-1].get("diverged") is True and not changes_of(cell)


def _recorded(cell: Cell) -> RunConfig | None:
    """Return the configuration of the run in a cell's folder, as `load_recorded` reads it."""
    path = cell.folder / "run.yaml"
    # Through the schema: settings that are newer than the run have their defaults there.
    return load_recorded(path) if path.is_file() else None


def _date_of(cell: Cell) -> str | None:
    try:
        run = _recorded(cell)
    except LopeError:
        return None  # `changes_of` tells
    return None if run is None else run.data.template_date


def _fingerprint(data: DataConfig) -> str | None:
    try:
        files = _local_files(data)
    except LopeError:
        return None  # they are gone, which training tells
    return fingerprint(files) if files else None


def _local_files(data: DataConfig) -> list[Path]:
    local = (
        source.model_copy(update={"path": name})
        for source in data.all_sources
        for name in ([source.path] if isinstance(source.path, str) else source.path)
        if is_meant_as_a_path(name) or Path(name).expanduser().exists()
    )
    readers = (rows for source in local for rows in find_rows(source))
    return [rows.path for rows in readers if isinstance(rows, FileRows)]
