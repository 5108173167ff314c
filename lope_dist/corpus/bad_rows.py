"""Rows that are no examples: what is wrong with one, and the account of all of them."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from lope_dist.core.errors import LopeError

_TOLD = 20


class RowError(ValueError):
    """Why a row is no example; who knows the place adds it.

    ``kind`` is what rows are counted by, the message tells of this one.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[RowError], tuple[str, str]]:
        return RowError, (self.kind, str(self))  # it comes from other processes


@dataclass
class BadRows:
    """The rows that were left out of a source."""

    allowed: float = 0.0
    """Share of all rows that may be bad; 0: none."""
    num_rows: int = 0
    """All rows that were read, good and bad."""
    counts: dict[str, int] = field(default_factory=dict)
    """Kind of error -> rows."""
    first: list[tuple[str, str]] = field(default_factory=list)
    """Place and reason of the first ones."""

    @property
    def total(self) -> int:
        """All rows that were left out."""
        return sum(self.counts.values())

    def add(self, place: str, error: RowError) -> None:
        """Count a bad row.

        Raises:
            LopeError: there may be none.
        """
        if self.allowed == 0:
            raise LopeError(
                f"{place}: {error} (data.max_bad_rows sets a share of rows that may be bad)."
            )
        self.counts[error.kind] = self.counts.get(error.kind, 0) + 1
        if len(self.first) < _TOLD:
            self.first.append((place, str(error)))

    def check(self) -> None:
        """Check the share, once all rows are read.

        Raises:
            LopeError: there are more; tells kinds by number and the first rows.
        """
        if self.total > self.allowed * self.num_rows:
            first = "; ".join(f"{place}: {reason}" for place, reason in self.first[:3])
            raise LopeError(
                f"{self._summary()}, more than data.max_bad_rows = {self.allowed:g} allows. The "
                f"first: {first}. Mend them or raise data.max_bad_rows."
            )

    def tell(self, file: TextIO | None = None) -> None:
        """Print how many rows were left out and why, and the first of them; nothing if none.

        Where several ranks hold the same source, one of them should call this.
        """
        if not self.total:
            return
        file = file or sys.stderr
        print(f"{self._summary()} and left out:", file=file)
        for place, reason in self.first:
            print(f"  {place}: {reason}", file=file)
        if self.total > len(self.first):
            print(f"  and {self.total - len(self.first)} more", file=file)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> BadRows:
        """Return what was written."""
        first = [(place, reason) for place, reason in tree["first"]]
        return cls(tree["allowed"], tree["num_rows"], tree["counts"], first)

    def _summary(self) -> str:
        kinds = ", ".join(f"{kind}: {n}" for kind, n in Counter(self.counts).most_common())
        return f"{self.total} of {self.num_rows} rows are bad ({kinds})"
