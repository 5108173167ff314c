"""What the JSON and YAML of a checkpoint must say, and in which formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired

import yaml
from pydantic import ValidationError
from typing_extensions import TypedDict

from lope_dist.config.schema import RunConfig
from lope_dist.config.sections import has_sections
from lope_dist.core.errors import LopeError, refuse_newer
from lope_dist.core.runlog import parse_json, read_json
from lope_dist.core.side_files import has_shape
from lope_dist.train.checkpoint.recorded import of_its_time

DESCRIPTION, STATE = "adapter.json", "state.json"
DESCRIPTION_FORMAT, STATE_FORMAT = 1, 2
"""Their newest formats; older ones are read, newer ones refused."""


class _Point(TypedDict):
    stage: str
    index: int
    step: int
    losses: dict[str, float]


class _Validation(TypedDict):
    data: str | None
    points: list[_Point]


class _Initial(TypedDict):
    checkpoint: str
    sha256: str


class _Description(TypedDict):
    fingerprints: NotRequired[dict[str, str]]


class _State(TypedDict):
    """What a resume needs of `state.json`; what later versions added is filled in."""

    stage: str
    stage_index: int
    steps: int
    next_step: int
    data_fingerprint: str
    fingerprints: dict[str, str]
    router: dict[str, dict[str, list[float]]]
    progress: dict[str, Any]
    validation: NotRequired[_Validation]
    init_from: NotRequired[_Initial | None]


def parse_state(text: bytes, path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's `state.json`.

    Args:
        text: What the file holds.
        path: The file, for the sentence.

    Raises:
        NewerFormat: a newer version of the program has written it.
        LopeError: it is no JSON, or tells less than a resume needs.
    """
    try:
        state = parse_json(text)
    except ValueError as error:
        raise LopeError(f"{path} is not readable JSON: {error}.") from None
    if not isinstance(state, dict):
        raise LopeError(f"{path} does not say how far the run is.")
    refuse_newer(state.get("format"), STATE_FORMAT, path)
    if not has_shape(state, _State):
        raise LopeError(f"{path} lacks a part of the run's progress.")
    return state


def read_description(folder: Path) -> dict[str, Any]:
    """Return what `adapter.json` says of the adapter beside it.

    Raises:
        NewerFormat: a newer version of the program has written it.
        LopeError: it is absent, or tells no sha256.
    """
    path = folder / DESCRIPTION
    description = read_json(path)
    if not isinstance(description, dict) or not isinstance(description.get("sha256"), str):
        raise LopeError(f"{path} has no sha256; restore it from a copy.")
    if not has_shape(description, _Description):
        raise LopeError(f"{path} has fingerprints that are none; restore it from a copy.")
    refuse_newer(description.get("format"), DESCRIPTION_FORMAT, path)
    return description


def read_recorded(text: bytes) -> dict[str, Any] | None:
    """Return the configuration that a `run.yaml` holds, None if it holds none.

    Settings that came after it was written have their defaults, which stand for what there was
    before them.
    """
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    if not has_sections(tree):
        return None
    try:
        return RunConfig.model_validate(of_its_time(tree)).model_dump(mode="json")
    except ValidationError:  # of a key that is no more; the difference is told
        return tree
