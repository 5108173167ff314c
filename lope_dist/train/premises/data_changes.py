"""What a run does to its data, which of them it leaves out, and noise that does nothing to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from lope_dist.config.noise import DataNoiseConfig, TextNoiseConfig
from lope_dist.config.schema import RunConfig
from lope_dist.config.validation import is_trained
from lope_dist.corpus.examples.source import ExampleSource
from lope_dist.corpus.tokens.views import with_noise
from lope_dist.noise.mix import DATA_NOISE, TEXT_NOISE, example_keys

_TRIED = 200


def data_changes(config: RunConfig) -> list[str]:
    """Return a sentence for each: noise of the data set itself, and rows that are not used."""
    sentences = [_noise(config.noise.data)] if config.noise.data.is_on else []
    for source in config.data.all_sources:
        if source.max_examples is not None:
            name = source.path if isinstance(source.path, str) else ", ".join(source.path)
            sentences.append(
                f"data.max_examples: of {name} the first {source.max_examples:,} rows are used and "
                "no others."
            )
    return sentences


def _noise(noise: DataNoiseConfig) -> str:
    parts = [f"{noise.rate:.1%} of the {noise.unit}s"] if noise.rate > 0 else []
    if noise.responses.rate > 0:
        parts.append(f"{noise.responses.rate:.1%} of the answers as a whole")
    return (
        f"noise.data changes {' and '.join(parts)}, in every stage; noise.data.rate=0 leaves the "
        "data as they are."
    )


def idle_noise(config: RunConfig, source: ExampleSource) -> list[str]:
    """Return a sentence for each noise operation that finds nothing to change in the first rows.

    Each is tried alone, on every word, character and answer that it is allowed to hit.
    """
    injects = any(stage.noise in ("text", "hybrid") for stage in config.train.stages.values())
    sections = [("data", DATA_NOISE, config.noise.data)]
    sections += [("text", TEXT_NOISE, config.noise.text)] if injects else []
    examples = list(source.read(0, _TRIED))
    ids = [example.id for example in examples]
    sentences = []
    for key, purpose, section in sections:
        keys = example_keys(config.seed, purpose, 0, ids)
        for name, where, alone in _one_by_one(section):
            if not with_noise(examples, source, alone, np.array(keys))[1]:
                sentences.append(
                    f"noise.{key}.{where}: '{name}' finds nothing to change in the first "
                    f"{len(examples):,} examples, so its share of the rate hits nothing there."
                )
    return sentences


def idle_stopping(config: RunConfig, steps: Mapping[str, int]) -> list[str]:
    """Return a sentence where stages end before `train.early_stopping` could end them.

    ``steps``: the optimizer steps of each stage.
    """
    rule, every = config.train.early_stopping, config.train.evaluate.every_steps
    if rule is None or every is None:
        return []
    least = (rule.patience + 1) * every  # the first evaluation is what later ones do not improve
    idle = [
        f"{name} ({steps[name]:,} steps)"
        for name, stage in config.train.stages.items()
        if is_trained(config.watched, stage.trainable) and steps[name] <= least
    ]
    if not idle:
        return []
    return [
        f"train.early_stopping ends no stage before step {least:,}, so it does nothing in "
        f"{', '.join(idle)}: set a smaller patience or train.evaluate.every_steps."
    ]


def _one_by_one(section: TextNoiseConfig) -> Iterator[tuple[str, str, TextNoiseConfig]]:
    """Yield each operation that is on, its key, and the section with it alone at the full rate."""
    answers = section.responses
    for name in section.shares if section.rate > 0 else ():
        alone = {"rate": 1.0, "operations": (name,)}
        none = answers.model_copy(update={"rate": 0.0})
        yield name, "operations", section.model_copy(update=alone | {"responses": none})
    for name in answers.shares if answers.rate > 0 else ():
        certain = answers.model_copy(update={"rate": 1.0, "operations": (name,)})
        yield name, "responses", section.model_copy(update={"rate": 0.0, "responses": certain})
