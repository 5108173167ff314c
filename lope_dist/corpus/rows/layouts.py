"""How a row of each `data.format` becomes an example.

| format | turns |
| --- | --- |
| alpaca | system, history, user (instruction, with input as its context), assistant (output) |
| messages, sharegpt | one a message |
| prompt | user (prompt), assistant (completion); or the messages of both |
| tokens | none: the row came as tokens |
| text | assistant (text) alone, plain text |
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lope_dist.config.data import FORMATS, MAPPED_FIELDS, SourceConfig
from lope_dist.corpus.rows.messages import (
    MessageReader,
    PlacedTurn,
    check_answer,
    flag,
    kind_of,
    listed,
    parsed,
    tools_of,
)
from lope_dist.corpus.rows.readers.base import Rows
from lope_dist.corpus.rows.turns import Example, RowError, Turn
from lope_dist.corpus.rows.weights import weight_of, weighted


class Layout:
    """The format of one source and the names of its columns.

    With ``format: auto`` the first row, or the first table's columns, decide for all.
    """

    def __init__(self, section: SourceConfig, *, allow_empty_response: bool) -> None:
        self._columns = section.columns
        self._format = None if section.format == "auto" else section.format
        self._allow_empty_response = allow_empty_response
        self._reader = MessageReader(section)
        self.unused: set[str] = set()
        """Columns that were seen and are not read."""
        self.has_tools = False
        """Whether a row had tools."""

    @property
    def message_keys(self) -> set[str]:
        """Keys of messages beyond role and text that were seen."""
        return self._reader.other_keys

    def select(self, names: Sequence[str]) -> list[str]:
        """Return the columns of a table that are worth reading.

        Raises:
            RowError: the format needs one that the table does not have.
        """
        fields = self._fields(names)
        columns = {self._columns.get(field, field) for field in fields}
        self.unused.update(set(names) - columns)
        return [name for name in names if name in columns]

    def parse(self, row: Any) -> Example:
        """Return a row's example, of which the id is the caller's to give.

        Raises:
            RowError: what is wrong with it.
        """
        placed, example = self._read(row)
        if example is not None:
            return self._weighted(example, row)
        name = self._format or ""
        tools = (
            tools_of(row.get(self._columns.get("tools", "tools")))
            if "tools" in _ALL[name]
            else None
        )
        self.has_tools |= tools is not None
        turns = tuple(each.turn for each in placed)
        example = self._weighted(Example(0, turns, tools, is_plain=name == "text"), row)
        if not self._allow_empty_response:
            for turn in example.turns:
                if turn.role == "assistant" and turn.is_learnt and _is_empty(turn):
                    raise RowError(
                        "empty response",
                        f"{_RESPONSE[name]} is empty; remove the row, or set "
                        "data.allow_empty_response=true to learn to answer nothing",
                    )
        return example

    def _weighted(self, example: Example, row: Mapping[str, Any]) -> Example:
        column = self._columns.get("weight")
        return example if column is None else weighted(example, weight_of(row[column]))

    def with_texts(self, row: Mapping[str, Any], turns: Sequence[Turn]) -> dict[str, Any]:
        """Return the row that `parse` was given with other texts in its turns."""
        new = dict(row)
        for (old, text_path, context_path), turn in zip(self._read(row)[0], turns, strict=True):
            for before, text, column_path in (
                (old.text, turn.text, text_path),
                (old.context, turn.context, context_path),
            ):
                if text != before:
                    column = self._columns.get(str(column_path[0]), str(column_path[0]))
                    if len(column_path) > 1:  # of a list, which may have come as JSON
                        new[column] = listed(new[column], column)
                    _set(new, (column, *column_path[1:]), text)
        return new

    def _read(self, row: Any) -> tuple[list[PlacedTurn], Example | None]:
        if not isinstance(row, Mapping):
            raise RowError("not an object", f"it must be an object, not {kind_of(row)}")
        fields = self._fields(row)
        values = {f: row[c] for f in fields if (c := self._columns.get(f, f)) in row}
        if len(values) < len(row):
            read_columns = {self._columns.get(f, f) for f in values}
            self.unused.update(name for name in row if name not in read_columns)
        if self._format == "tokens":
            return [], Example(0, (), tokens=_tokens(values))
        placed = self._turns(values)
        if values.get("label") is not None and not flag(values["label"], "label"):
            placed = [each._replace(turn=_unlearnt(each.turn)) for each in placed]
        return placed, None

    def _turns(self, row: Mapping[str, Any]) -> list[PlacedTurn]:
        if self._format == "text":
            return [PlacedTurn(Turn("assistant", _text(row, "text")), ("text",))]
        placed = []
        if row.get("system"):
            placed.append(PlacedTurn(Turn("system", _text(row, "system")), ("system",)))
        if self._format == "alpaca":
            context = _text(row, "input") if row.get("input") is not None else ""
            user = Turn("user", _text(row, "instruction"), context)
            return [
                *placed,
                *_history(row),
                PlacedTurn(user, ("instruction",), ("input",)),
                PlacedTurn(Turn("assistant", _text(row, "output")), ("output",)),
            ]
        if self._format == "prompt":
            for field in ("prompt", "completion"):
                is_answer = field == "completion"
                if isinstance(row[field], list | Mapping):
                    turns = self._reader.read(row, field, is_learnt=is_answer)
                    if is_answer:
                        check_answer(turns, self._columns.get(field, field))
                    placed += turns
                else:
                    role = "assistant" if is_answer else "user"
                    placed.append(PlacedTurn(Turn(role, _text(row, field)), (field,)))
        else:
            placed += self._reader.read(row, "messages" if "messages" in row else "conversations")
        if placed[-1].turn.role != "assistant":
            raise RowError(
                "no response",
                f"the last message is of role {placed[-1].turn.role!r}; it must be the "
                "assistant's, which is what is learnt",
            )
        return placed

    def _fields(self, names: Collection[str]) -> tuple[str, ...]:
        """Return the fields of the format, of which ``names`` has all that are needed."""
        if self._format is None:
            self._format = self._detect(names)
        needed, optional = FORMATS[self._format]
        for field in (*needed, *self._columns):
            column = self._columns.get(field, field)
            if column not in names:
                mapped = f" (column '{column}' of data.columns)" if field != column else ""
                raise RowError(
                    "missing field",
                    f"field '{field}' is missing{mapped}; the columns are {_listed(names)}",
                )
        renamed = self._columns.values()  # {instruction: input} leaves no input
        mapped = (f for f in MAPPED_FIELDS if f in self._columns)
        return (*needed, *(f for f in optional if f in self._columns or f not in renamed), *mapped)

    def _detect(self, names: Collection[str]) -> str:
        fitting = [
            name
            for name, (needed, optional) in FORMATS.items()
            if set(self._columns) <= {*needed, *optional, *MAPPED_FIELDS}
            and all(self._columns.get(field, field) in names for field in needed)
        ]
        if len(fitting) > 1 and "text" in fitting and "text" not in self._columns:
            fitting.remove("text")  # beside other fields: often their rendering
        if len(fitting) != 1:
            needs = "; ".join(f"{n} needs {' and '.join(f.needed)}" for n, f in FORMATS.items())
            raise RowError(
                "columns of no format",
                f"the columns are {_listed(names)}; "
                + (
                    f"{' and '.join(fitting)} both fit, so set data.format"
                    if fitting
                    else f"data.format={needs}; columns of other names are given by data.columns"
                ),
            )
        return fitting[0]


def parsed_rows(
    files: Iterable[Rows], layout: Layout
) -> Iterator[tuple[Rows, int, Example | RowError]]:
    """Yield each row's file and number, and its example or the reason why it is bad."""
    for rows in files:
        for number, row in rows.read(layout.select):
            try:
                if isinstance(row, RowError):
                    raise row
                yield rows, number, layout.parse(row)
            except RowError as error:
                yield rows, number, error


_ALL = {name: (*fields.needed, *fields.optional) for name, fields in FORMATS.items()}
_RESPONSE = {
    "alpaca": "output",
    "messages": "an assistant message",
    "sharegpt": "an assistant message",
    "prompt": "completion",
    "text": "text",
}


def _history(row: Mapping[str, Any]) -> list[PlacedTurn]:
    """Return the earlier questions and answers of an Alpaca row; they are not learnt again."""
    placed = []
    for index, pair in enumerate(parsed(row.get("history") or (), "history", "")):
        texts: list[Any] = pair if isinstance(pair, list) else []
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise RowError("wrong type", "history must be a list of [question, answer]")
        question, answer = texts
        placed.append(PlacedTurn(Turn("user", question), ("history", index, 0)))
        placed.append(PlacedTurn(Turn("assistant", answer, is_learnt=False), ("history", index, 1)))
    return placed


def _tokens(row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Return a row's tokens and labels without the padding behind them."""
    ids, labels = _integers(row, "input_ids"), _integers(row, "labels")
    if row.get("attention_mask") is None:
        return ids, labels
    mask = _integers(row, "attention_mask")
    length = sum(mask)
    if mask != [1] * length + [0] * (len(ids) - length):
        raise RowError(
            "hidden tokens",
            "its attention_mask must be 1 for each token and 0 for padding, which stands behind "
            "all tokens; leave the padding out",
        )
    if len(labels) == len(ids) and set(labels[length:]) <= {-100}:
        labels = labels[:length]
    return ids[:length], labels


def _integers(row: Mapping[str, Any], field: str) -> list[int]:
    values = row[field]
    if not isinstance(values, list) or not values or not all(type(v) is int for v in values):
        raise RowError("wrong type", f"{field} must be a list of integers that is not empty")
    return values


def _unlearnt(turn: Turn) -> Turn:
    return Turn(turn.role, turn.text, turn.context, is_learnt=False, more=turn.more)


def _is_empty(turn: Turn) -> bool:
    return not turn.text.strip() and not (turn.more and turn.more.get("tool_calls"))


def _set(row: dict[str, Any], path: Sequence[str | int], text: str) -> None:
    """Replace the text at a path; what is around it is copied, never changed."""
    first, *steps = path
    if not steps:
        row[str(first)] = text
        return
    inner: Any = copy.deepcopy(row[str(first)])
    row[str(first)] = inner
    for step in steps[:-1]:
        inner = inner[step]
    inner[steps[-1]] = text


def _text(row: Mapping[str, Any], field: str) -> str:
    if field not in row:
        raise RowError("missing field", f"field '{field}' is missing")
    if not isinstance(row[field], str):
        raise RowError("wrong type", f"field '{field}' must be a string, not {kind_of(row[field])}")
    return row[field]


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(map(str, names))) or "none"
