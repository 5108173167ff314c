"""The examples that a run is asked about: any file that training can read."""

from __future__ import annotations

import hashlib
import json

from lope_dist.config.data import DataConfig
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.records import ExampleSource, open_source


def open_examples(config: RunConfig, path: str) -> ExampleSource:
    """Open ``path`` as the run read its training data: format and columns are the run's.

    All rows count, those with an empty response too, so that an example's id is its row's number
    from 0; a row that is no example is an error.

    Raises:
        LopeError: what `open_source` raises.
    """
    data = config.data
    place: dict[str, object] = {"path": path, "allow_empty_response": True}
    if data.path is not None:  # several sources have a format each: found out anew
        place |= {"format": data.format, "columns": data.columns}
    return open_source(DataConfig.model_validate(place))


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
    parts = [source.fingerprint, config.data.template, config.data.max_length]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
