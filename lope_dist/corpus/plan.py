"""A run's configuration -> what a corpus for it must hold, shard by shard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lope_dist.config.noise import NoiseConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.fingerprint import tokenizer_hash
from lope_dist.corpus.manifest import CLEAN, Fingerprint, noisy_view
from lope_dist.corpus.prompts import Form


@dataclass(frozen=True)
class Span:
    """The place of one shard: a range of examples of a view."""

    view: str
    first: int
    end: int
    file: str

    @property
    def epoch(self) -> int:
        """The epoch of the view's injected noise; 0 for the clean view."""
        return int(self.view.rpartition("-")[2]) if self.injects_text else 0

    @property
    def injects_text(self) -> bool:
        """Whether the view has injected noise in it."""
        return self.view != CLEAN


def fingerprint_of(
    form: Form,
    noise: NoiseConfig,
    *,
    seed: int,
    num_noisy_epochs: int,
    source: str,
    num_examples: int,
    shard_examples: int,
    has_marks: bool = False,
) -> Fingerprint:
    """Return what decides the content of a corpus; see `Fingerprint`."""
    has_data_noise = noise.data.is_on
    has_text_noise = num_noisy_epochs > 0
    return Fingerprint(
        source=source,
        num_examples=num_examples,
        tokenizer=tokenizer_hash(form.tokenizer),
        template=form.template_identity,
        max_length=form.max_length,
        model="encoder-decoder" if form.is_encoder_decoder else "decoder",
        seed=seed if has_data_noise or has_text_noise else None,
        data_noise=noise.data.model_dump(mode="json") if has_data_noise else None,
        text_noise=noise.text.model_dump(mode="json") if has_text_noise else None,
        views=(CLEAN, *(noisy_view(epoch) for epoch in range(num_noisy_epochs))),
        shard_examples=shard_examples,
        has_marks=has_marks,
    )


def noisy_epochs(stages: Iterable[StageConfig], noise: NoiseConfig) -> int:
    """Return how many epochs have injected text noise: the most of any stage.

    A stage that `max_steps` ends early counts with all its epochs, so that a corpus depends
    neither on the batch size nor on that limit.
    """
    if not noise.text.is_on:
        return 0
    return max((s.epochs for s in stages if s.noise in ("text", "hybrid")), default=0)


def spans_of(fingerprint: Fingerprint) -> list[Span]:
    """Return the place of every shard, view after view."""
    size = fingerprint.shard_examples
    return [
        Span(view, first, min(first + size, fingerprint.num_examples), f"{view}-{number:06d}.arrow")
        for view in fingerprint.views
        for number, first in enumerate(range(0, fingerprint.num_examples, size))
    ]
