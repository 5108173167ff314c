"""An example as turns of a conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Speaker = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: Speaker
    text: str
    context: str = ""
    """What an instruction is about (Alpaca's `input`); empty where there is none."""


@dataclass(frozen=True)
class Example:
    """One training example; ``id`` is its place among the good rows of the data set.

    A single assistant turn and nothing else is plain text: it answers nobody, so that it goes
    through no template.
    """

    id: int
    turns: tuple[Turn, ...]

    @property
    def is_plain(self) -> bool:
        """Whether this is plain text."""
        return len(self.turns) == 1 and self.turns[0].role == "assistant"
