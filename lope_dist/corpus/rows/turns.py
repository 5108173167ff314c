"""A row of a data set: an example as turns of a conversation, or the reason why it is bad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Speaker = Literal["system", "user", "assistant", "tool"]
IGNORED = -100
"""Label of a token that is no target."""


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: Speaker
    text: str
    context: str = ""
    """What an instruction is about (Alpaca's `input`); empty where there is none."""
    is_learnt: bool = True
    """Of an assistant's turn: whether it is a target, or history alone."""
    more: Mapping[str, Any] | None = None
    """What else the message says to a chat template: `tool_calls`, `reasoning_content`, ..."""


@dataclass(frozen=True)
class Example:
    """One training example; ``id`` is its place among the good rows of the data set."""

    id: int
    turns: tuple[Turn, ...]
    tools: list[Any] | None = None
    """The tools that the assistant may call, as the chat template takes them."""
    is_plain: bool = False
    """Whether this is plain text: one assistant turn that answers nobody and goes through no
    template."""
    tokens: tuple[list[int], list[int]] | None = None
    """Of a row that came as tokens: `input_ids` and `labels`; it has no turns."""
    weight: float = 1.0
    """How much its loss counts, beside that of other examples."""

    @property
    def learnt(self) -> list[int]:
        """The turns that are targets."""
        return [i for i, t in enumerate(self.turns) if t.role == "assistant" and t.is_learnt]


class RowError(ValueError):
    """Why a row is bad. The caller adds the file and line.

    ``kind`` is the category for counts; the message describes this row.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[RowError], tuple[str, str]]:
        return RowError, (self.kind, str(self))  # it comes from other processes
