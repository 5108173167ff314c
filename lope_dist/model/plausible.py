"""Whether an architecture's numbers are such that its modules can be made at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lope_dist.core.errors import LopeError

_COUNTS = re.compile(r"(?!max_)(?:.*_)?(?:layers?|experts|blocks)")
_MOST = 4096
"""Modules of a kind; the deepest models have a few hundred layers."""


def refuse_endless(values: Mapping[str, Any], where: str) -> None:
    """Refuse counts of layers or experts that would be built for hours.

    Args:
        values: Of a `config.json`.
        where: They come from, for the sentence.

    Raises:
        LopeError: a count beyond all models; names it.
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            refuse_endless(value, f"{where}.{key}")
        elif _COUNTS.fullmatch(key) and isinstance(value, int | float) and not value <= _MOST:
            shown = str(value) if value < 1e15 else "more than 10^15"
            raise LopeError(f"{where}.{key} = {shown} is more than {_MOST}; is it misspelt?")
