"""How a row of each `data.format` becomes turns.

| format | turns |
| --- | --- |
| alpaca | user (instruction, with input as its context), assistant (output) |
| messages, sharegpt | one a message |
| prompt | user (prompt), assistant (completion) |
| text | assistant (text) alone, which makes it plain text |
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lope_dist.config.data import FORMATS, SourceConfig
from lope_dist.corpus.bad_rows import RowError
from lope_dist.corpus.turns import Speaker, Turn

_ROLES: dict[str, Speaker] = {"system": "system", "user": "user", "assistant": "assistant"}
_SHAREGPT_ROLES: dict[str, Speaker] = {"human": "user", "gpt": "assistant", **_ROLES}


class Layout:
    """The format of one source and the names of its columns.

    With ``format: auto`` the first row, or the first table's columns, decide for all.
    """

    def __init__(self, section: SourceConfig, *, allow_empty_response: bool) -> None:
        self._columns = section.columns
        self._format = None if section.format == "auto" else section.format
        self._allow_empty_response = allow_empty_response

    def select(self, names: Sequence[str]) -> list[str]:
        """Return the columns of a table that are worth reading.

        Raises:
            RowError: the format needs one that the table does not have.
        """
        fields = self._fields(names)
        wanted = {self._columns.get(field, field) for field in fields}
        return [name for name in names if name in wanted]

    def parse(self, row: Any) -> tuple[Turn, ...]:
        """Return a row's turns.

        Raises:
            RowError: what is wrong with it.
        """
        if not isinstance(row, Mapping):
            raise RowError("not an object", f"it must be an object, not {_kind(row)}")
        fields = self._fields(row)
        if self._columns:
            row = {f: row[c] for f in fields if (c := self._columns.get(f, f)) in row}
        turns = _PARSERS[self._format or ""](row)
        if not self._allow_empty_response:
            for turn in turns:
                if turn.role == "assistant" and not turn.text.strip():
                    raise RowError(
                        "empty response",
                        f"{_RESPONSE[self._format or '']} is empty; remove the row, or set "
                        "data.allow_empty_response=true to learn to answer nothing",
                    )
        return turns

    def put(self, row: Mapping[str, Any], turns: Sequence[Turn]) -> dict[str, Any]:
        """Return the row that `parse` was given with other texts in its turns."""
        name = self._format or ""
        new = dict(row)
        if name in _CONVERSATIONS:
            column = self._columns.get(_CONVERSATIONS[name][0], _CONVERSATIONS[name][0])
            text = _CONVERSATIONS[name][2]
            new[column] = [
                {**message, text: turn.text}
                for message, turn in zip(row[column], turns, strict=True)
            ]
            return new
        texts = {
            "alpaca": {"instruction": turns[0].text, "output": turns[-1].text},
            "prompt": {"prompt": turns[0].text, "completion": turns[-1].text},
            "text": {"text": turns[-1].text},
        }[name]
        if name == "alpaca" and row.get(self._columns.get("input", "input")) is not None:
            texts["input"] = turns[0].context
        return new | {self._columns.get(field, field): text for field, text in texts.items()}

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
        taken = self._columns.values()  # {instruction: input} leaves no input
        return (*needed, *(f for f in optional if f in self._columns or f not in taken))

    def _detect(self, names: Collection[str]) -> str:
        fitting = [
            name
            for name, (needed, optional) in FORMATS.items()
            if set(self._columns) <= {*needed, *optional}
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


def _alpaca(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    context = _text(row, "input") if row.get("input") is not None else ""
    return (
        Turn("user", _text(row, "instruction"), context),
        Turn("assistant", _text(row, "output")),
    )


def _prompt(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    return Turn("user", _text(row, "prompt")), Turn("assistant", _text(row, "completion"))


def _plain(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    return (Turn("assistant", _text(row, "text")),)


def _messages(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    return _conversation(row, *_CONVERSATIONS["messages"], _ROLES)


def _sharegpt(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    return _conversation(row, *_CONVERSATIONS["sharegpt"], _SHAREGPT_ROLES)


_CONVERSATIONS = {
    "messages": ("messages", "role", "content"),
    "sharegpt": ("conversations", "from", "value"),
}
"""Format -> the column of the conversation, and what a message calls its side and its text."""


_PARSERS = {
    "alpaca": _alpaca,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "prompt": _prompt,
    "text": _plain,
}
_RESPONSE = {
    "alpaca": "output",
    "messages": "an assistant message",
    "sharegpt": "an assistant message",
    "prompt": "completion",
    "text": "text",
}


def _conversation(
    row: Mapping[str, Any], field: str, role: str, text: str, roles: Mapping[str, Speaker]
) -> tuple[Turn, ...]:
    messages = row[field]
    if not isinstance(messages, list) or not messages:
        raise RowError(
            "wrong type", f"{field} must be a list of {{{role}, {text}}} that is not empty"
        )
    turns = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping):
            raise RowError(
                "wrong type", f"message {number} must be an object, not {_kind(message)}"
            )
        given = message.get(role)
        if not isinstance(given, str) or given not in roles:
            raise RowError(
                "unknown role",
                f"the {role} of message {number} is {given!r}; allowed: {', '.join(roles)}",
            )
        turns.append(Turn(roles[given], _text(message, text, f" of message {number}")))
    if turns[-1].role != "assistant":
        raise RowError(
            "no response",
            f"the last message is of {role} {messages[-1][role]!r}; it must be the assistant's, "
            "which is what is learnt",
        )
    return tuple(turns)


def _text(row: Mapping[str, Any], field: str, of: str = "") -> str:
    if field not in row:
        raise RowError("missing field", f"field '{field}'{of} is missing")
    if not isinstance(row[field], str):
        raise RowError(
            "wrong type", f"field '{field}'{of} must be a string, not {_kind(row[field])}"
        )
    return row[field]


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(map(str, names))) or "none"


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
