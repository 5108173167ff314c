"""`lope check`: what a run stands on, as far as it shows without reading weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lope_dist.config.model import ModelConfig
from lope_dist.config.schema import RunConfig
from lope_dist.model.build import load_tokenizer
from lope_dist.model.source import local_folder
from lope_dist.model.tokenizer_fit import check_tokenizer
from lope_dist.train.data_changes import data_changes
from lope_dist.train.preflight import preflight
from lope_dist.train.premises import Premises, check_premises


@dataclass(frozen=True)
class Checked:
    """What was found; nothing of it stops a run."""

    premises: Premises
    tokenizer: str
    """What was looked at, in words."""
    data: list[str]
    """What a run does to its data."""

    def lines(self) -> list[str]:
        """Return the table for a terminal."""
        return [*self.premises.lines(), self.tokenizer, *self.data]

    def as_json(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return {
            "ok": True,
            "premises": self.premises.as_json(),
            "tokenizer": self.tokenizer,
            "data": self.data,
        }


def check_run(config: RunConfig, *, has_data: bool) -> Checked:
    """Check a configuration with its model's description and tokenizer.

    Args:
        config: Of a recipe, or of a model by its name.
        has_data: Whether the configuration says what is learnt from.

    Raises:
        LopeError: what would stop a run.
    """
    plan = preflight(config)
    if not _is_described(config.model):
        told = "Tokenizer: not looked at; with model.architecture the model's files are not read."
    else:
        tokenizer = load_tokenizer(config.model)
        check_tokenizer(tokenizer, plan.model, config.model.name_or_path)
        told = f"Tokenizer: {len(tokenizer):,} tokens, each with a row of the embedding."
    changes = data_changes(config) if has_data else []
    return Checked(check_premises(plan, config), told, changes)


def _is_described(config: ModelConfig) -> bool:
    """Return whether the model's own files were asked for its architecture."""
    return config.architecture is None or local_folder(config) is not None
