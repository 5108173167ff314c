"""What a reader is: one pass over the rows of one file or data set, in flat memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

ROW_LIMIT = 64 << 20
"""Bytes of one row; a longer one is bad, and no reader of lines takes it into memory."""

Select = Callable[[Sequence[str]], list[str]]
"""All columns of a table -> those worth reading; raises `RowError` if a needed one is absent."""
NumberedRows = Iterator[tuple[int, Any]]
"""A row's number in its file, from 1, and the row, or the `RowError` that explains it."""


class Rows(Protocol):
    """The rows of one file or data set."""

    @property
    def note(self) -> str:
        """A note for the user about how the data were chosen; empty if there was no choice."""
        ...

    @property
    def name(self) -> str:
        """What they are read from."""
        ...

    def identity(self) -> list[Any]:
        """Return what changes when the rows change, ready for JSON."""
        ...

    def read(self, select: Select) -> NumberedRows:
        """Yield all rows in order.

        Raises:
            LopeError: what follows cannot be read at all.
        """
        ...

    def location(self, number: int) -> str:
        """Return where a row stands, as an error names it."""
        ...
