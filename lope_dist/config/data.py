"""`data`: where the examples are and how they become tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lope_dist.config.base import Section


class DataConfig(Section):
    """The training set."""

    path: str
    """A `.json`, `.jsonl` or `.parquet` file, a glob of such files, or a hub data set's name."""
    split: str = "train"
    """Split of a hub data set; files have one split."""
    format: Literal["auto", "alpaca", "messages"] = "auto"
    """`alpaca`: instruction, input, output. `messages`: a list of {role, content}."""
    allow_empty_response: bool = False
    """Keep rows with an empty response, as Alpaca-52K has a few: only the end of the answer is
    learnt from them. Off: such a row is an error."""
    max_examples: int | None = Field(default=None, ge=1)
    """Use only the first so many examples."""
    template: Literal["alpaca", "chat"] = "alpaca"
    """Stanford Alpaca's prompt, or the tokenizer's own chat template."""
    max_length: int = Field(default=1024, ge=8)
    """Tokens of a row; longer examples are cut at the end, and the cut ones are counted."""
    packing: bool = True
    """Several examples in a row, with no attention across their borders. Off: one, padded."""
    shuffle: bool = True
    """Visit the examples in an order drawn from (seed, epoch)."""
    corpus: str | None = None
    """Folder of a corpus that `lope corpus build` made for this run: tokens are read from it.
    Without it they are made on the fly."""
    workers: int = Field(default=0, ge=0)
    """Processes of each rank that make the batches of coming steps while one is computed."""
