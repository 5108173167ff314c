"""An example as turns of a conversation, and how rows of either format become one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

Speaker = Literal["system", "user", "assistant"]
_SPEAKERS = ("system", "user", "assistant")


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: Speaker
    text: str
    context: str = ""
    """What an instruction is about (Alpaca's `input`); empty where there is none."""


@dataclass(frozen=True)
class Example:
    """One training example; ``id`` is its row over all files of the data set."""

    id: int
    turns: tuple[Turn, ...]


def detect_format(row: Any) -> str:
    """Return ``alpaca`` or ``messages`` by the columns of a row.

    Raises:
        ValueError: neither or both; tells the columns.
    """
    columns = set(row) if isinstance(row, Mapping) else set()
    found = [
        name
        for name, needed in (("alpaca", {"instruction", "output"}), ("messages", {"messages"}))
        if needed <= columns
    ]
    if len(found) != 1:
        raise ValueError(
            f"the columns are {', '.join(sorted(map(str, columns))) or 'none'}; "
            "data.format=alpaca needs instruction and output (input is optional), "
            "data.format=messages needs messages"
            + (": both fit, so set data.format" if found else "")
        )
    return found[0]


def parse_turns(row: Any, layout: str, *, allow_empty_response: bool) -> tuple[Turn, ...]:
    """Return the turns of a row of format ``alpaca`` or ``messages``.

    Raises:
        ValueError: what is wrong with the row, for the caller to say where it is.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"it must be an object, not {_kind(row)}")
    turns = _parse_alpaca(row) if layout == "alpaca" else _parse_messages(row)
    for turn in turns:
        if turn.role == "assistant" and not turn.text.strip() and not allow_empty_response:
            field = "output" if layout == "alpaca" else "an assistant message"
            raise ValueError(
                f"{field} is empty; remove the row, or set data.allow_empty_response=true to "
                "learn to answer nothing"
            )
    return turns


def _parse_alpaca(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    context = _text(row, "input") if row.get("input") is not None else ""
    return (
        Turn("user", _text(row, "instruction"), context),
        Turn("assistant", _text(row, "output")),
    )


def _parse_messages(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages must be a list of {role, content} that is not empty")
    turns = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping):
            raise ValueError(f"message {number} must be an object, not {_kind(message)}")
        role = message.get("role")
        if role not in _SPEAKERS:
            raise ValueError(
                f"the role of message {number} is {role!r}; allowed: {', '.join(_SPEAKERS)}"
            )
        turns.append(Turn(cast(Speaker, role), _text(message, "content")))
    if turns[-1].role != "assistant":
        raise ValueError(
            f"the last message is of role {turns[-1].role!r}; it must be the assistant's, "
            "which is what is learnt"
        )
    return tuple(turns)


def _text(row: Mapping[str, Any], field: str) -> str:
    if field not in row:
        raise ValueError(f"field '{field}' is missing")
    if not isinstance(row[field], str):
        raise ValueError(f"field '{field}' must be a string, not {_kind(row[field])}")
    return row[field]


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
