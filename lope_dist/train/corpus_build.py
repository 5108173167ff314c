"""Build the corpus of a run: what a recipe needs, opened and handed to the builder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lope_dist.config.model import ModelConfig
from lope_dist.config.schema import RunConfig
from lope_dist.corpus.built.build import Built, Recipe, build
from lope_dist.corpus.built.corpus import BuiltCorpus
from lope_dist.corpus.built.manifest import Plan, fingerprint_of, noisy_epochs
from lope_dist.corpus.show import examples_of
from lope_dist.model.build import architecture, load_tokenizer
from lope_dist.noise.mix import check_operations
from lope_dist.train.premises.data import dated, form_of, open_rows


def open_recipe(config: RunConfig, shard_examples: int, folder: Path | None = None) -> Recipe:
    """Open source and tokenizer of a run and plan its corpus.

    ``folder``: where an earlier build of it may have begun.

    Raises:
        LopeError: an unknown noise operation, a bad row, or a template that does not fit.
    """
    check_operations(config.noise)
    tokenizer, arch = load_tokenizer(config.model), architecture(config.model)
    config = dated(config, tokenizer, folder)
    source, form = open_rows(config, tokenizer, arch), form_of(config, tokenizer, arch)
    source.tell()
    fingerprint = fingerprint_of(
        form,
        config.noise,
        seed=config.seed,
        num_noisy_epochs=noisy_epochs(config.train.stages.values(), config.noise),
        source=source.fingerprint,
        num_examples=len(source),
        shard_examples=shard_examples,
        has_marks=_wants_marks(config, tokenizer),
    )
    made_from = {
        "model": config.model.model_dump(mode="json", include={"name_or_path", "revision"}),
        "data": config.data.model_dump(mode="json", exclude={"corpus", "workers"}),
    }
    plan = Plan(fingerprint=fingerprint, made_from=made_from)
    return Recipe(plan, source, form, config.noise, config.seed)


def _wants_marks(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a run's stages look at which tokens noise changed."""
    stages = config.train.stages.values()
    is_noisy = config.noise.data.is_on or noisy_epochs(stages, config.noise) > 0
    return is_noisy and config.adapter.num_poison > 0 and bool(tokenizer.is_fast)


def build_corpus(
    config: RunConfig,
    folder: Path,
    *,
    shard_examples: int,
    node_rank: int = 0,
    num_nodes: int = 1,
    workers: int = 1,
    progress: bool = True,
) -> Built:
    """Build a node's part of a run's corpus; see `corpus.build.build`."""
    return build(
        open_recipe(config, shard_examples, folder),
        folder,
        node_rank=node_rank,
        num_nodes=num_nodes,
        workers=workers,
        progress=progress,
    )


def show_corpus(folder: Path, *, first: int, count: int, epoch: int) -> list[dict[str, Any]]:
    """Return examples of a built corpus as text; see `corpus.show.examples_of`.

    Raises:
        LopeError: no finished corpus, no such example, or its model is not at hand.
    """
    corpus = BuiltCorpus(folder)
    tokenizer = load_tokenizer(ModelConfig(**corpus.manifest.made_from["model"]))
    return examples_of(corpus, tokenizer, first=first, count=count, epoch=epoch)
