"""What a built corpus is to hold, and what it says of itself: its shards, their hashes.

Nothing in it depends on when, where or by how many processes it was built, so the same
corpus has the same hash.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from lope_dist.config.base import Section
from lope_dist.config.noise import NoiseConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.errors import LopeError, refuse_newer
from lope_dist.core.fingerprint import tokenizer_hash
from lope_dist.core.runlog import read_json, write_json
from lope_dist.corpus.built.shards import Counts
from lope_dist.corpus.tokens.prompts import Form
from lope_dist.corpus.tokens.views import CLEAN, noisy_view
from lope_dist.noise.mix import identity_of

MANIFEST, PLAN, SHARDS = "manifest.json", "plan.json", "shards"
FORMAT = 1
"""Of plan and manifest; older ones are read, newer ones refused."""
T = TypeVar("T", bound=Section)
_FILE = re.compile(r"[a-z]+(-\d+)?-\d{6,}\.arrow")


class Fingerprint(Section):
    """All that decides what the shards hold."""

    source: str
    """Hash of all examples."""
    num_examples: int = Field(ge=1)
    """How many."""
    tokenizer: str
    """Hash of vocabulary, merges, normalization and special tokens."""
    template: str
    """`data.template`, for `chat` with the hash of the tokenizer's template."""
    max_length: int
    """`data.max_length`."""
    model: Literal["decoder", "encoder-decoder"]
    """What kind of model the labels are for."""
    seed: int | None
    """`seed`, if there is any noise."""
    data_noise: dict[str, Any] | None
    """`noise.data`, if its rate is above 0."""
    text_noise: dict[str, Any] | None
    """`noise.text`, if a stage injects it and its rate is above 0."""
    views: tuple[str, ...]
    """`clean`, and a noisy one for each epoch that injects text noise."""
    shard_examples: int = Field(ge=1)
    """Examples of a shard."""
    has_marks: bool = False
    """Whether the rows tell which tokens noise changed."""

    def differences(self, other: Fingerprint) -> list[str]:
        """Return `part: this -> other` for each part that differs."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        return [
            f"{key}: {mine[key]!r} -> {theirs[key]!r}" for key in mine if mine[key] != theirs[key]
        ]


class ShardRecord(Section):
    """One shard as the manifest lists it."""

    file: str
    """Name in the folder `shards`."""
    view: str
    """Its view."""
    first: int
    """Its first example."""
    examples: int
    """As the rest: see `Counts`."""
    tokens: int
    target_tokens: int
    cut: int
    hits: dict[str, int]
    bytes: int
    """Size of the file."""
    sha256: str
    """Hash of the file."""
    blocks: tuple[str, ...] = ()
    """Hashes of its blocks; none in corpora that were built before there were any."""

    @property
    def counts(self) -> Counts:
        """What the shard holds."""
        return Counts(self.examples, self.tokens, self.target_tokens, self.cut, dict(self.hits))


class Plan(Section):
    """What is to be built; written before the first shard."""

    format: int = Field(default=FORMAT, ge=1, le=FORMAT)
    """Version of this form."""
    fingerprint: Fingerprint
    """Decides the content."""
    made_from: dict[str, Any]
    """Where it came from, for people and for `lope corpus show`; not compared."""


class Manifest(Plan):
    """A whole corpus."""

    hash: str
    """Of the fingerprint and all shards."""
    counts: dict[str, dict[str, Any]]
    """View -> what all its shards hold together."""
    shards: tuple[ShardRecord, ...]
    """View after view, in the order of the examples."""


@dataclass(frozen=True)
class Span:
    """The range of examples of a view that one shard holds."""

    view: str
    first: int
    end: int
    file: str


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
        data_noise=identity_of(noise.data) if has_data_noise else None,
        text_noise=identity_of(noise.text) if has_text_noise else None,
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
    """Return the range of every shard, view after view."""
    size = fingerprint.shard_examples
    return [
        Span(view, first, min(first + size, fingerprint.num_examples), f"{view}-{number:06d}.arrow")
        for view in fingerprint.views
        for number, first in enumerate(range(0, fingerprint.num_examples, size))
    ]


def make_manifest(plan: Plan, shards: Sequence[ShardRecord]) -> Manifest:
    """Return the manifest of a whole corpus."""
    views: dict[str, Counts] = {view: Counts() for view in plan.fingerprint.views}
    for shard in shards:
        views.setdefault(shard.view, Counts()).add(shard.counts)
    return Manifest(
        fingerprint=plan.fingerprint,
        made_from=plan.made_from,
        hash=_content_hash(plan.fingerprint, shards),
        counts={view: vars(counts) for view, counts in views.items()},
        shards=tuple(shards),
    )


def _content_hash(fingerprint: Fingerprint, shards: Sequence[ShardRecord]) -> str:
    """Return the sha256 over what a corpus is and all that it holds."""
    # Without defaults, so that the hash is that of a time before there were marks.
    settings = fingerprint.model_dump(mode="json", exclude_defaults=True)
    parts = [settings, [s.model_dump(mode="json") for s in shards]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def write_section(path: Path, value: Section) -> None:
    """Write a plan, a record or a manifest; whole or not at all."""
    write_json(path, value.model_dump(mode="json"))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a whole corpus.

    Raises:
        LopeError: no corpus, one that is not finished, or a manifest that was changed.
    """
    if not (folder / MANIFEST).exists():
        problem = (
            "is not finished; run its build again, and `lope corpus merge` if nodes built parts"
            if (folder / PLAN).exists()
            else "holds no corpus; make one with `lope corpus build CONFIG --out DIR`"
        )
        raise LopeError(f"{folder} {problem}.")
    manifest = read_section(folder / MANIFEST, Manifest)
    if manifest != make_manifest(manifest, manifest.shards):
        raise LopeError(
            f"{folder / MANIFEST} was changed after it was written: its hash or its counts are "
            "not those of what it lists; restore it, or remove it and run the build again."
        )
    return manifest


def read_section(path: Path, kind: type[T]) -> T:
    """Read what `write_section` wrote.

    Raises:
        NewerFormat: a newer version of the program has written it.
        LopeError: absent, not JSON, or of another form.
    """
    tree = read_json(path)
    if isinstance(tree, dict) and "format" in kind.model_fields:
        refuse_newer(tree.get("format"), FORMAT, path)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise LopeError(
            f"{path} is not of the form that this version writes ({where}: {first['msg']}); "
            "build the corpus again into another folder."
        ) from None


def shard_path(folder: Path, name: str) -> Path:
    """Return where a listed shard is.

    Raises:
        LopeError: a name that no builder gives, or a link: a manifest must not lead elsewhere.
    """
    path = folder / SHARDS / name
    if not _FILE.fullmatch(name) or path.is_symlink() or path.parent.is_symlink():
        raise LopeError(
            f"{folder}: the manifest lists the shard {name!r}, which is no file in {SHARDS}/ of "
            "this folder; do not trust it, build the corpus again."
        )
    return path
