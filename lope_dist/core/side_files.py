"""What a run's folder tells beside its checkpoints, and what becomes of it once it is damaged.

A checkpoint is all that a run needs. So a side file that is torn, or is something else
altogether, never costs a run: who reads leaves out what is damaged, who writes puts it aside
under another name, and both say so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import AllowInfNan, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from lope_dist.core.errors import NewerFormat, refuse_newer
from lope_dist.core.files import check_regular
from lope_dist.core.row_names import with_names_of_today
from lope_dist.core.runlog import log_entries, parse_json

Number = Annotated[float, AllowInfNan(False)]


class _Step(TypedDict):
    stage: str
    step: Annotated[int, Field(ge=0)]
    loss: Number
    tokens: int
    time: Number
    lr: NotRequired[dict[str, Number]]
    grad_norm: NotRequired[Number]
    tokens_per_s: NotRequired[Number]
    memory_bytes: NotRequired[int]
    target_tokens: NotRequired[int]
    drift: NotRequired[dict[str, Number]]


class _Validation(TypedDict):
    stage: str
    step: Annotated[int, Field(ge=0)]
    validation: dict[str, Number]
    time: Number
    examples: NotRequired[int]
    target_tokens: NotRequired[int]
    seconds: NotRequired[Number]


class _Start(TypedDict):
    status: str


class _Manifest(TypedDict):
    starts: list[_Start]
    fingerprints: NotRequired[dict[str, str]]


class _Scores(TypedDict):
    name: str
    tasks: dict[str, dict[str, Any]]


class _Results(TypedDict):
    rows: list[_Scores]
    groups: NotRequired[dict[str, list[str]]]


class _State(TypedDict):
    status: str
    progress: NotRequired[dict[str, Any]]


class _RowLosses(TypedDict):
    per_row: NotRequired[list[Annotated[list[Number], Field(min_length=3, max_length=3)]]]


class _Losses(TypedDict):
    data: str
    rows: dict[str, _RowLosses]
    fingerprint: NotRequired[str]


class NoiseScores(TypedDict):
    """What `lope score` writes."""

    by: str
    histogram: dict[str, Any]


class _Sample(TypedDict):
    prompt: str
    expected: str
    answers: dict[str, str]


class _Samples(TypedDict):
    checkpoint: str
    adapter_sha256: NotRequired[str]
    samples: list[_Sample]


_Router = dict[str, list[str] | dict[str, list[Number] | dict[str, dict[str, Number]]]]
_Cost = dict[str, dict[str, Number]]


class SideFile:
    """A JSON file beside a run's checkpoints.

    Args:
        name: Its path in the run's folder.
        shape: What its value must be; more keys than those are of no harm.
        newest: Its newest `format`, if it tells one. A newer one is refused and never written over.
        to_today: What makes a value of today of one that an earlier version has written.
    """

    def __init__(
        self,
        name: str,
        shape: Any,
        newest: int | None = None,
        to_today: Callable[[Any], Any] | None = None,
    ) -> None:
        self.name, self._shape, self._newest = name, TypeAdapter(shape), newest
        self._to_today = to_today or (lambda value: value)

    def refuse_newer(self, run_dir: Path) -> None:
        """Refuse a file that a newer version has written; a damaged one is no matter here.

        Raises:
            NewerFormat: it is one.
        """
        self._parsed(run_dir / self.name)

    def read(self, run_dir: Path) -> Any | None:
        """Return the value; None if there is none, or if it is damaged, which is reported.

        Raises:
            NewerFormat: a newer version has written it.
        """
        path = run_dir / self.name
        value, defect = self._parsed(path)
        if defect is not None:
            _tell(f"{path} is damaged ({defect}) and left out.")
        return value

    def recover(self, run_dir: Path) -> Any | None:
        """Return the value as `read` does, to write the file next: a damaged one is put aside."""
        path = run_dir / self.name
        value, defect = self._parsed(path)
        if defect is not None:
            _tell(f"{path} is damaged ({defect}) and {set_aside(path)}.")
        return value

    def _parsed(self, path: Path) -> tuple[Any | None, str | None]:
        try:
            check_regular(path)
            value = parse_json(path.read_bytes())
            if self._newest is not None and isinstance(value, dict):
                refuse_newer(value.get("format", 1), self._newest, path)
            self._shape.validate_python(value, strict=True)
        except FileNotFoundError:
            return None, None
        except NewerFormat:
            raise
        except ValidationError as error:
            return None, _first(error)
        except (OSError, ValueError) as error:
            return None, str(getattr(error, "strerror", None) or error)
        return self._to_today(value), None


def loss_file(name: str) -> SideFile:
    """Return `losses/NAME.json`."""
    return SideFile(name, _Losses, to_today=with_names_of_today)


class LogFile:
    """A file of one JSON object a line, such as `metrics.jsonl`.

    Args:
        name: Its path in the run's folder.
        shape: What each object must be; more keys than those are of no harm.
        beside: What the lines of another kind in the same file must be.
    """

    def __init__(self, name: str, shape: Any, beside: Any = None) -> None:
        self.name, self._shape = name, TypeAdapter(shape)
        self._any = self._shape if beside is None else TypeAdapter(shape | beside)

    def read(self, run_dir: Path) -> Iterator[dict[str, Any]]:
        """Yield the records of this kind in order. Damaged lines are left out and reported once."""
        path = run_dir / self.name
        damaged: list[int] = []
        try:
            for record in self._records(path, damaged):
                if self._any is self._shape or _has(self._shape, record):
                    yield record
        except OSError as error:
            _tell(f"{path} cannot be read ({error.strerror}) and is left out.")
        if damaged:
            _tell(f"{path}: {_lines(damaged)} damaged and left out.")

    def recover(self, run_dir: Path) -> list[dict[str, Any]]:
        """Return the records of all kinds for who writes the file anew.

        A damaged file is put aside whole.
        """
        path, damaged = run_dir / self.name, []
        try:
            records = list(self._records(path, damaged))
        except OSError as error:
            _tell(f"{path} cannot be read ({error.strerror}) and {set_aside(path)}.")
            return []
        if damaged:
            _tell(f"{path}: {_lines(damaged)} damaged; the file {set_aside(path)}.")
        return records

    def _records(self, path: Path, damaged: list[int]) -> Iterator[dict[str, Any]]:
        for number, line in log_entries(path):
            try:
                record = parse_json(line)
                self._any.validate_python(record, strict=True)
            except ValueError:  # pydantic's is one too
                damaged.append(number)
            else:
                yield record


METRICS = LogFile("metrics.jsonl", _Step, beside=_Validation)
"""One logged optimizer step a line."""
VALIDATION = LogFile("metrics.jsonl", _Validation, beside=_Step)
"""One loss on the validation rows a line, by row of experts."""
MANIFEST_FORMAT = 1
MANIFEST = SideFile("manifest.json", _Manifest, newest=MANIFEST_FORMAT)
RESULTS = SideFile("results.json", _Results, to_today=with_names_of_today)
ROUTER = SideFile("router.json", _Router)
STATE = SideFile("state.json", _State)
SAMPLES = SideFile("samples.json", _Samples)
"""Answers to validation prompts, by row of experts."""
COST = SideFile("cost.json", _Cost)
TRACKERS = SideFile("trackers.json", dict[str, str])
"""By which id each tracker knows the run, so that a resume goes on with it."""


def has_shape(value: Any, shape: Any) -> bool:
    """Return whether a JSON value is of a `TypedDict`; more keys than its are of no harm."""
    return _has(TypeAdapter(shape), value)


def _has(shape: TypeAdapter[Any], value: Any) -> bool:
    try:
        shape.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def set_aside(path: Path) -> str:
    """Give a file the first free name behind its own; return the words that tell it."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    try:
        path.rename(aside)
    except OSError as error:
        return f"could not be put aside ({error.strerror})"
    return f"was put aside as {aside.name}"


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]


def _lines(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"line {numbers[0]} is"
    more = ", ..." if len(numbers) > 5 else ""
    return f"{len(numbers)} lines ({', '.join(map(str, numbers[:5]))}{more}) are"


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr)
