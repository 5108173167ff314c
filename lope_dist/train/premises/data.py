"""A run's rows, before anything expensive: read, rendered, counted, and shown in one table."""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from lope_dist.config.data import DataConfig
from lope_dist.config.schema import RunConfig
from lope_dist.corpus.built.manifest import PLAN, Plan, read_section
from lope_dist.corpus.examples.account import figures, table
from lope_dist.corpus.examples.source import ExampleSource, open_source
from lope_dist.corpus.examples.split import num_in_both, split_source
from lope_dist.corpus.feed.loader import num_steps
from lope_dist.corpus.feed.mixture import Mixture
from lope_dist.corpus.rows.readers import find_rows
from lope_dist.corpus.rows.readers.hub import HubRows
from lope_dist.corpus.show import example_lines, show_rows
from lope_dist.corpus.tokens.prompts import Form
from lope_dist.corpus.tokens.template_source import uses_date
from lope_dist.model.build import architecture, load_tokenizer
from lope_dist.noise.mix import check_operations
from lope_dist.train.checkpoint.descriptions import read_recorded
from lope_dist.train.checkpoint.folder import CONFIG
from lope_dist.train.premises.data_changes import data_changes, idle_noise, idle_stopping


def dated(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, corpus: Path | None = None
) -> RunConfig:
    """Return the configuration with the date that its chat template is to see.

    That is the day on which the run, or the corpus that it reads or builds, was begun; today, if
    it is begun now. A template that asks for no date needs none.
    """
    data = config.data
    if data.template != "chat" or data.template_date is not None or not uses_date(tokenizer):
        return config
    begun = _recorded(Path(config.output_dir) / CONFIG) if corpus is None else None
    folder = corpus or (Path(data.corpus) if data.corpus else None)
    if begun is None and folder is not None and (folder / PLAN).exists():
        begun = read_section(folder / PLAN, Plan).made_from["data"].get("template_date")
    day = begun or date.today().isoformat()
    return config.model_copy(update={"data": data.model_copy(update={"template_date": day})})


def form_of(config: RunConfig, tokenizer: PreTrainedTokenizerBase, arch: PretrainedConfig) -> Form:
    """Return how a run's examples become tokens of its model."""
    return Form.of(
        config.data,
        tokenizer,
        is_encoder_decoder=arch.is_encoder_decoder,
        vocabulary=getattr(arch.get_text_config(), "vocab_size", None),
    )


def open_rows(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, arch: PretrainedConfig
) -> ExampleSource:
    """Return the examples that a run trains on; see `open_parts`."""
    return open_parts(config, tokenizer, arch)[0]


def open_parts(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, arch: PretrainedConfig
) -> tuple[ExampleSource, ExampleSource | None]:
    """Return the examples that a run trains on, and those that it validates on, if any.

    Each was rendered and tokenized once; see `open_source`. Collective: no; the first process of
    a host does it and the others wait.

    Raises:
        LopeError: what `open_source` and `split_source` raise.
    """
    form = form_of(config, tokenizer, arch)
    source, validation = open_source(config.data, form), config.data.validation
    if validation is not None and validation.share is not None:
        return split_source(source, validation.share, config.seed)
    there = config.data.of_validation
    return source, None if there is None else open_source(there, form)


def steps_of(config: RunConfig, source: ExampleSource) -> dict[str, int]:
    """Return the optimizer steps of each stage."""
    mixture = Mixture(source.sizes, source.weights, config.seed, shuffle=config.data.shuffle)
    batch = config.train.global_batch
    return {name: num_steps(mixture, stage, batch) for name, stage in config.train.stages.items()}


def figures_of(
    config: RunConfig, source: ExampleSource, validation: ExampleSource | None
) -> dict[str, Any]:
    """Return the table of a run's rows as JSON."""
    of_rows = figures(source.account, source.bad_rows, steps_of(config, source))
    held = {} if validation is None else {"validation": {"examples": len(validation)}}
    return of_rows | held


def lines_of(
    config: RunConfig, source: ExampleSource, validation: ExampleSource | None
) -> list[str]:
    """Return what is done to a run's rows, and the table of them, as text."""
    steps = steps_of(config, source)
    lines = table(source.account, source.bad_rows, steps)
    changes = [*data_changes(config), *idle_noise(config, source), *idle_stopping(config, steps)]
    return [*changes, *lines, *_validation_lines(config, source, validation)]


def _validation_lines(
    config: RunConfig, source: ExampleSource, validation: ExampleSource | None
) -> list[str]:
    given = config.data.validation
    if given is None or validation is None:
        return []
    if given.share is not None:
        where = f"share {given.share:g} of these examples, not trained"
        return [f"  {'for validation':<27}{len(validation):>13,}  ({where})"]
    lines = [f"  {'for validation':<27}{len(validation):>13,}  (of {validation.name})"]
    if both := num_in_both(source, validation):
        lines.append(
            f"  {both:,} of the {len(validation):,} examples for validation are trained on too: "
            "their loss says nothing of rows that the model has not seen."
        )
    return lines


def tell_rows(
    config: RunConfig,
    source: ExampleSource,
    validation: ExampleSource | None,
    tokenizer: PreTrainedTokenizerBase,
    arch: PretrainedConfig,
) -> None:
    """Print the bad rows, the table and one example, shortened. One rank calls this."""
    for one in (source, validation):
        if one is not None:
            one.tell()
    lines = lines_of(config, source, validation)
    (first,) = show_rows(config, source, form_of(config, tokenizer, arch), first=0, count=1)
    print("\n".join([*lines, *example_lines(first, limit=600)]), file=sys.stderr)


def is_local(data: DataConfig) -> bool:
    """Return whether all rows, also those for validation, are in files here."""
    if data.of_validation is not None and not is_local(data.of_validation):
        return False
    return not any(
        isinstance(rows, HubRows) for source in data.all_sources for rows in find_rows(source)
    )


def survey_rows(config: RunConfig) -> tuple[dict[str, Any], list[str]]:
    """Return the table of a configuration's rows, as JSON and as text; reads no weights.

    Raises:
        LopeError: what `open_source` raises.
    """
    config, source, validation, _ = _opened_parts(config)
    source.tell()
    return figures_of(config, source, validation), lines_of(config, source, validation)


def shown_rows(
    config: RunConfig, *, row: int | None, count: int, stage: str | None
) -> list[dict[str, Any]]:
    """Return examples of a configuration as JSON, from a row on; see `corpus.show.show_rows`."""
    config, source, form = opened(config)
    source.tell()
    first = 0 if row is None else source.first_of_row(row)
    return show_rows(config, source, form, first=first, count=count, stage=stage)


def opened(config: RunConfig) -> tuple[RunConfig, ExampleSource, Form]:
    """Return a configuration with its date, its examples and their form; reads no weights.

    Raises:
        LopeError: what `open_source` raises.
    """
    config, source, _, form = _opened_parts(config)
    return config, source, form


def _opened_parts(
    config: RunConfig,
) -> tuple[RunConfig, ExampleSource, ExampleSource | None, Form]:
    check_operations(config.noise)
    tokenizer, arch = load_tokenizer(config.model), architecture(config.model)
    config = dated(config, tokenizer)
    return config, *open_parts(config, tokenizer, arch), form_of(config, tokenizer, arch)


def _recorded(path: Path) -> str | None:
    """Return the date that a run in its folder was begun with, if there is one."""
    tree = read_recorded(path.read_bytes()) if path.is_file() else None
    day = ((tree or {}).get("data") or {}).get("template_date")
    return day if isinstance(day, str) else None  # of what is damaged `open_run_folder` tells
