"""The examples that a run is asked about: any file that training can read."""

from __future__ import annotations

from pathlib import Path

from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.fingerprint import json_hash
from lope_dist.corpus.examples.source import ExampleSource
from lope_dist.model.build import architecture, load_tokenizer
from lope_dist.train.premises.data import open_parts, open_rows


def open_examples(config: RunConfig, path: str) -> ExampleSource:
    """Open ``path`` as the run read its training data, by the same one pass over all rows.

    Template, length, roles and bad rows are treated as in training; a conversation that the
    template shows in parts is several examples. Only empty responses count too.

    Raises:
        LopeError: what `open_source` raises.
    """
    data = config.data.of_file(path).model_copy(update={"allow_empty_response": True})
    of_data = config.model_copy(update={"data": data})
    source = open_rows(of_data, load_tokenizer(config.model), architecture(config.model))
    source.tell()
    return source


def validation_examples(config: RunConfig, run_dir: Path) -> ExampleSource:
    """Open the rows that a run validates on, as it does.

    Raises:
        LopeError: the run holds none out, and what `open_source` raises.
    """
    arch = architecture(config.model)
    _, validation = open_parts(config, load_tokenizer(config.model), arch)
    if validation is None:
        raise LopeError(
            f"{run_dir} has no validation rows (data.validation is not set), so name what to "
            f"score: --tasks or --suite, or `lope loss {run_dir} FILE` for the loss of a file's "
            "responses."
        )
    validation.tell()
    return validation


def first_ids(source: ExampleSource, limit: int | None) -> range:
    """Return the ids of the first ``limit`` examples, or of all.

    Raises:
        LopeError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise LopeError(f"--limit {limit}: at least 1.")
    return range(min(len(source), limit or len(source)))


def data_fingerprint(config: RunConfig, source: ExampleSource) -> str:
    """Return a hash of the examples and of how they become the run's tokens."""
    return json_hash([source.fingerprint, config.data.template, config.data.max_length])
