"""`lope check`: what a run stands on, as far as it shows without reading weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
from lope_dist.train.premises.preflight import preflight
from lope_dist.train.premises.table import Premises, check_premises


@dataclass(frozen=True)
class Checked:
    """What was found; nothing of it stops a run."""

    premises: Premises
    tokenizer: str
    """What was looked at, in words."""
    data: list[str]
    """What a run does to its data."""
    rows: list[str]
    """What is in the rows, as a table."""
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
        reads_rows: Whether rows that are in files here are rendered and counted.

    Raises:
        LopeError: what would stop a run.
    """
    plan = preflight(config)
    rows: list[str] = []
    missing = None
    if not _is_described(config.model):
        about_tokenizer = (
            "Tokenizer: not looked at; with model.architecture the model's files are not read."
        )
    else:
        tokenizer = load_tokenizer(config.model)
        check_tokenizer(tokenizer, plan.model, config.model.name_or_path)
        about_tokenizer = f"Tokenizer: {len(tokenizer):,} tokens, each with a row of the embedding."
        if has_data and reads_rows:
            try:
                is_here = is_local(config.data)
            except LopeError as error:
                missing = str(error)
                rows = [f"Data: not looked at: {missing}"]
            else:
                rows = ["Data: not looked at; they are on the hub."]
                if is_here:
                    rows = _rows(dated(config, tokenizer), tokenizer, plan.model.config)
    changes = data_changes(config) if has_data else []
    premises = check_premises(plan, config)
    if (initial := find_initial(config, plan.model)) is not None:
        premises.init_from = initial.sentence()
    return Checked(premises, about_tokenizer, changes, rows, missing)


def _rows(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, arch: PretrainedConfig
) -> list[str]:
    """Return the table of rows that are in files here."""
    source, validation = open_parts(config, tokenizer, arch)
    source.tell()
    return lines_of(config, source, validation)


def _is_described(config: ModelConfig) -> bool:
    """Return whether the model's own files were asked for its architecture."""
    return config.architecture is None or local_folder(config) is not None
