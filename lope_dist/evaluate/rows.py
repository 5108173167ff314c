"""The ways to ask one trained model: each is a row of the results table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lope_dist.config.adapter import AdapterConfig, CompensationConfig
from lope_dist.config.baselines import BaselineConfig
from lope_dist.core.errors import LopeError, suggest

_PLAIN = CompensationConfig(mode="none")


@dataclass(frozen=True)
class Row:
    """Which experts take part, and how the remaining ones' weights are compensated."""

    name: str
    experts: Literal["masked", "all", "none"]
    compensation: CompensationConfig


def rows_for(asked: Sequence[str], adapter: AdapterConfig | BaselineConfig) -> list[Row]:
    """Return the rows for `masked`, `masked_plain`, `all` and `none`.

    `masked_plain` masks without compensation; `none` is the base model.

    Raises:
        LopeError: another word, or a mask where there is no poisoning expert.
    """
    known = {
        "none": Row("base", "none", _PLAIN),
        "masked_plain": Row("lope_masked_plain", "masked", _PLAIN),
        "masked": Row("lope_masked", "masked", adapter.compensation),
        "all": Row("lope_unmasked", "all", _PLAIN),
    }
    for word in asked:
        if word not in known:
            raise LopeError(
                f"--experts: '{word}' is not known; allowed: {', '.join(known)}."
                f"{suggest(word, known)}"
            )
        if known[word].experts == "masked" and adapter.num_poison == 0:
            raise LopeError(
                f"--experts {word}: this run has no poisoning expert to mask; use --experts all."
            )
    return [known[word] for word in asked]
