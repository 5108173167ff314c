"""`lope check`: what a run stands on, as far as it shows without reading weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from lope_dist.config.model import ModelConfig
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.model.build import load_tokenizer
from lope_dist.model.source import local_folder
from lope_dist.model.tokenizer_fit import check_tokenizer
from lope_dist.train.checkpoint.initial import find_initial
from lope_dist.train.premises.data import dated, is_local, lines_of, open_parts
from lope_dist.train.premises.data_changes import data_changes
from lope_dist.train.premises.preflight import check_length, preflight
from lope_dist.train.premises.table import Premises, check_premises
from lope_dist.train.run.folder import has_begun


@dataclass(frozen=True)
class Checked:
    """What was found; nothing of it stops a run."""

    premises: Premises
    tokenizer: str
    """What was looked at, in words."""
    data: list[str]
    """What a run does to its data."""
    rows: list[str]
    """What is in the rows, as a table, or why they were not looked at."""
    missing: str | None = None
    """Why rows that were to be read are not there."""

    @property
    def verdict(self) -> str:
        """`ok`, and what that does not speak of."""
        return "ok" if self.missing is None else "ok but for the data, which a run would not find"

    def lines(self) -> list[str]:
        """Return the table for a terminal."""
        return [*self.premises.lines(), self.tokenizer, *self.data, *self.rows]

    def as_json(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return {
            "ok": self.missing is None,
            "premises": self.premises.as_json(),
            "tokenizer": self.tokenizer,
            "data": self.data,
            "rows": self.rows,
        }


def check_run(config: RunConfig, *, has_data: bool, reads_rows: bool) -> Checked:
    """Check a configuration with its model's description and tokenizer.

    Args:
        config: Of a recipe, or of a model by its name.
        has_data: Whether the configuration says what is learnt from.
        reads_rows: Whether rows that are in files here are rendered and counted; that needs the
            tokenizer, which the hub is not asked for where the architecture is stated.

    Raises:
        LopeError: what would stop a run.
    """
    plan = preflight(config)
    check_length(config, plan.model, has_begun=has_begun(Path(config.output_dir)))
    tokenizer = _tokenizer(config.model)
    about_tokenizer = (
        "Tokenizer: not looked at; model.architecture is stated, and the hub's cache lacks it."
    )
    if tokenizer is not None:
        check_tokenizer(tokenizer, plan.model, config.model.name_or_path)
        about_tokenizer = f"Tokenizer: {len(tokenizer):,} tokens, each with a row of the embedding."
    rows, missing = [], None
    if has_data and reads_rows:
        rows, missing = _rows(config, tokenizer, plan.model.config)
    changes = data_changes(config) if has_data else []
    premises = check_premises(plan, config)
    if (initial := find_initial(config, plan.model)) is not None:
        premises.init_from = initial.sentence()
    return Checked(premises, about_tokenizer, changes, rows, missing)


def _rows(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase | None, arch: PretrainedConfig
) -> tuple[list[str], str | None]:
    """Return what is in rows that are in files here, and why there are none, if so."""
    try:
        is_here = is_local(config.data)
    except LopeError as error:
        return [f"Data: not looked at: {error}"], str(error)
    if not is_here:
        return ["Data: not looked at; they are on the hub."], None
    if tokenizer is None:
        return [
            "Data: not looked at, for want of the tokenizer; `lope data stats` fetches it."
        ], None
    config = dated(config, tokenizer)
    source, validation = open_parts(config, tokenizer, arch)
    source.tell()
    return lines_of(config, source, validation), None


def _tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer; None if, with a stated architecture, only the hub may have it."""
    is_here = config.architecture is None or local_folder(config) is not None
    return load_tokenizer(config) if is_here or _is_cached(config) else None


def _is_cached(config: ModelConfig) -> bool:
    try:
        file = try_to_load_from_cache(
            config.name_or_path, "tokenizer_config.json", revision=config.revision
        )
    except ValueError:  # the name is none of the hub
        return False
    return isinstance(file, str)
