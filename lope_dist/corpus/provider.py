"""Where a loader's tokens come from: made on the fly, or read from a built corpus.

Both give the same tokens for the same example and epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from lope_dist.config.noise import NoiseConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.built import BuiltCorpus
from lope_dist.corpus.manifest import CLEAN, Fingerprint, noisy_view
from lope_dist.corpus.prompts import Form
from lope_dist.corpus.records import ExampleSource
from lope_dist.corpus.tokens import Tokenized, encode
from lope_dist.corpus.views import stage_views

_SETTINGS = {
    "source": "the examples of data.path",
    "num_examples": "the number of examples",
    "tokenizer": "the tokenizer of model.name_or_path",
    "template": "data.template, its text, its date or its arguments",
    "max_length": "data.max_length",
    "model": "the kind of model",
    "seed": "seed",
    "data_noise": "noise.data",
    "text_noise": "noise.text",
}


class TokenProvider(Protocol):
    """Gives the tokens of examples as a stage sees them."""

    def tokens(self, ids: Sequence[int], epoch: int) -> list[Tokenized]:
        """Return examples in the order asked for."""
        ...


class FreshTokens:
    """Noise and tokens made when they are asked for."""

    def __init__(
        self,
        source: ExampleSource,
        form: Form,
        *,
        noise: NoiseConfig,
        seed: int,
        injects_text: bool,
        has_marks: bool = False,
    ) -> None:
        self._source, self._form = source, form
        self._noise, self._seed = noise, seed
        self._injects_text = injects_text
        self._has_marks = has_marks

    def tokens(self, ids: Sequence[int], epoch: int) -> list[Tokenized]:
        """Return examples in the order asked for."""
        views = stage_views(
            [self._source[index] for index in ids],
            self._source,
            self._noise,
            injects_text=self._injects_text,
            seed=self._seed,
            epoch=epoch,
            has_marks=self._has_marks,
        )
        return encode(
            [view.example for view in views],
            self._form,
            [view.marks for view in views] if self._has_marks else None,
        )


class BuiltTokens:
    """Tokens read from shards; only those of the examples asked for."""

    def __init__(self, corpus: BuiltCorpus, *, injects_text: bool, has_marks: bool = False) -> None:
        self._corpus, self._injects_text = corpus, injects_text
        self._has_marks = has_marks

    def tokens(self, ids: Sequence[int], epoch: int) -> list[Tokenized]:
        """Return examples in the order asked for."""
        view = noisy_view(epoch) if self._injects_text else CLEAN
        tokens = [row.tokens for row in self._corpus.rows(view, ids)]
        return tokens if self._has_marks else [replace(own, corrupted=None) for own in tokens]


def open_built(folder: str, wanted: Fingerprint) -> BuiltCorpus:
    """Open `data.corpus` for a run.

    Raises:
        LopeError: no finished corpus there, one made from something else than the run has, or
            one without the marks that ``wanted`` has; tells what, and how to mend it.
    """
    corpus = BuiltCorpus(Path(folder))
    built = corpus.manifest.fingerprint
    mine, its = wanted.model_dump(mode="json"), built.model_dump(mode="json")
    differences = [
        f"{name} ({its[part]!r} there, {mine[part]!r} here)"
        for part, name in _SETTINGS.items()
        if mine[part] is not None and mine[part] != its[part]
    ]
    # Data noise changes the clean view too, so a corpus with it never serves a run without.
    if mine["data_noise"] is None and its["data_noise"] is not None:
        differences.append("noise.data (there is some there, none here)")
    absent = [view for view in wanted.views if view not in built.views]
    if absent and not differences:
        differences.append(f"the epochs with text noise (the view {absent[0]} is not there)")
    if differences:
        raise LopeError(
            f"data.corpus = {folder!r} was built for another run; different: "
            f"{'; '.join(differences)}. Build one for this run with `lope corpus build`, take the "
            "corpus's settings, or leave data.corpus out."
        )
    if wanted.has_marks and not built.has_marks:
        raise LopeError(
            f"data.corpus = {folder!r} does not tell which tokens noise changed, which a stage's "
            "loss_on, router_supervision or gradient_routing asks for; build one that does, in "
            "another folder, with `lope corpus build CONFIG --out DIR` and this configuration, or "
            "leave data.corpus out."
        )
    return corpus
