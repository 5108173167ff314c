"""The one path from an example to its tokens: in training, in building a corpus, in showing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lope_dist.config.noise import NoiseConfig
from lope_dist.corpus.prompts import Form
from lope_dist.corpus.tokens import Tokenized, encode
from lope_dist.corpus.views import Source, epoch_of, stage_views


@dataclass(frozen=True)
class Row:
    """An example as tokens, and what noise did to it."""

    tokens: Tokenized
    hits: dict[str, int]
    """Noise operation -> units that it hit."""


class TokenProvider(Protocol):
    """Gives examples as a stage sees them: made on the fly, or read from a built corpus."""

    def rows(self, view: str, ids: Sequence[int]) -> list[Row]:
        """Return examples of a view, in the order asked for."""
        ...


@dataclass(frozen=True)
class FreshTokens:
    """Noise and tokens, made when they are asked for."""

    source: Source
    form: Form
    noise: NoiseConfig
    seed: int
    has_marks: bool = False
    """Whether rows tell which tokens noise changed."""

    def rows(self, view: str, ids: Sequence[int]) -> list[Row]:
        """Return examples of a view, in the order asked for."""
        epoch = epoch_of(view)
        views = stage_views(
            [self.source[index] for index in ids],
            self.source,
            self.noise,
            injects_text=epoch is not None,
            seed=self.seed,
            epoch=epoch or 0,
            has_marks=self.has_marks,
        )
        examples = [view.example for view in views]
        marks = [view.marks for view in views] if self.has_marks else None
        tokens = encode(examples, self.form, marks)
        return [Row(own, view.hits) for own, view in zip(tokens, views, strict=True)]
