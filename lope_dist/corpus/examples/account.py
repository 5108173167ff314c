"""Good and bad rows, counted in the pass over all of them: one table, for people and for JSON."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from lope_dist.core.errors import LopeError
from lope_dist.corpus.rows.turns import RowError

_BAD_TOLD, _TOLD = 20, 5


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

    def add(self, location: str, error: RowError) -> None:
        """Count a bad row.

        Raises:
            LopeError: there may be none.
        """
        if self.allowed == 0:
            raise LopeError(
                f"{location}: {error} (data.max_bad_rows sets a share of rows that may be bad)."
            )
        self.counts[error.kind] = self.counts.get(error.kind, 0) + 1
        if len(self.first) < _BAD_TOLD:
            self.first.append((location, str(error)))

    def check(self) -> None:
        """Check the share, once all rows are read.

        Raises:
            LopeError: there are more; tells kinds by number and the first rows.
        """
        if self.total > self.allowed * self.num_rows:
            first = "; ".join(f"{location}: {reason}" for location, reason in self.first[:3])
            raise LopeError(
                f"{self._summary()}, more than data.max_bad_rows = {self.allowed:g} allows. The "
                f"first: {first}. Correct the rows or raise data.max_bad_rows."
            )

    def tell(self, file: TextIO | None = None) -> None:
        """Print how many rows were left out and why, and the first of them; nothing if none.

        Where several ranks hold the same source, one of them should call this.
        """
        if not self.total:
            return
        file = file or sys.stderr
        print(f"{self._summary()} and left out:", file=file)
        for location, reason in self.first:
            print(f"  {location}: {reason}", file=file)
        if self.total > len(self.first):
            print(f"  and {self.total - len(self.first)} more", file=file)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> BadRows:
        """Return what `asdict` made, and JSON kept."""
        first = [(location, reason) for location, reason in tree["first"]]
        return cls(tree["allowed"], tree["num_rows"], tree["counts"], first)

    def _summary(self) -> str:
        kinds = ", ".join(f"{kind}: {n}" for kind, n in Counter(self.counts).most_common())
        return f"{self.total} of {self.num_rows} rows are bad ({kinds})"


@dataclass
class Account:
    """The good rows of a data set, rendered, tokenized and counted, without any noise."""

    examples: int = 0
    """Rows of tokens that training visits."""
    not_learnt: int = 0
    """Rows that say of all their answers that they are not to be learnt."""
    split: int = 0
    """Conversations that became several examples: earlier turns have other text or other tokens
    once more follow, or the model is an encoder-decoder, which writes one answer."""
    cut: int = 0
    """Examples longer than `data.max_length`."""
    without_target: int = 0
    """Of these, those with nothing left to learn."""
    tokens: int = 0
    target_tokens: int = 0
    with_control_text: int = 0
    """Examples in which text spells a control token; it stays text."""
    weighted: int = 0
    """Examples whose weight is not 1."""
    target_weight: float = 0.0
    """The sum over target tokens of the weight of their example."""
    first_without_target: list[str] = field(default_factory=list)
    """Where the first of them stand."""
    unused: list[str] = field(default_factory=list)
    """What of the rows reaches no token, a sentence each."""

    @property
    def mean_weight(self) -> float:
        """The mean over target tokens of the weight of their example."""
        return self.target_weight / self.target_tokens if self.weighted else 1.0

    def add_without_target(self, location: str) -> None:
        """Count an example with nothing to learn."""
        self.without_target += 1
        if len(self.first_without_target) < _TOLD:
            self.first_without_target.append(location)


def figures(account: Account, bad_rows: BadRows, steps: Mapping[str, int]) -> dict[str, Any]:
    """Return the table as JSON.

    ``steps``: the optimizer steps of each stage that follow.
    """
    return {
        "rows": bad_rows.num_rows,
        "bad_rows": dict(bad_rows.counts),
        "first_bad_rows": [{"place": location, "reason": why} for location, why in bad_rows.first],
        **asdict(account),
        "steps": dict(steps),
    }


def table(account: Account, bad_rows: BadRows, steps: Mapping[str, int]) -> list[str]:
    """Return the table as lines of text."""
    kinds = ", ".join(f"{kind} {n:,}" for kind, n in bad_rows.counts.items())
    behind = "; ".join(account.first_without_target)
    of_stages = ", ".join(f"{name} {n:,}" for name, n in steps.items())
    rows = [
        ("rows", bad_rows.num_rows, ""),
        ("bad, left out", bad_rows.total, kinds),
        ("marked as not to be learnt", account.not_learnt, "left out"),
        ("split", account.split, "each answer behind its own history"),
        ("examples", account.examples, ""),
        ("cut at data.max_length", account.cut, ""),
        ("without a target", account.without_target, f"behind the cut: {behind}"),
        ("control tokens in text", account.with_control_text, "kept as text"),
        ("weighted", account.weighted, f"mean weight of a target {account.mean_weight:.4g}"),
        ("tokens", account.tokens, ""),
        ("target tokens", account.target_tokens, ""),
        ("steps", sum(steps.values()), of_stages),
    ]
    always = ("rows", "bad, left out", "examples", "cut at data.max_length", "without a target")
    always += ("tokens", "target tokens", "steps")
    lines = ["Data:"]
    for name, count, more in rows:
        if count or name in always:
            lines.append(f"  {name:<27}{count:>13,}" + (f"  ({more})" if more and count else ""))
    return lines + [f"  {sentence}" for sentence in account.unused]
