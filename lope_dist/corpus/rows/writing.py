"""Rows of any file as lines of JSON that the readers take again."""

from __future__ import annotations

import json
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from lope_dist.core.errors import LopeError

_SAID_BY_THEIR_TEXT = (date, time, timedelta, Decimal, UUID)


def row_line(row: dict[str, Any], location: str) -> str:
    """Return a row with all its columns as a line of JSON; dates and decimals become text.

    Args:
        row: The row.
        location: Where it stands, for the sentence.

    Raises:
        LopeError: a value that JSON cannot hold; names its column.
    """
    try:
        return _encoded(row)
    except (TypeError, ValueError):
        for column, value in row.items():
            try:
                _encoded({column: value})
            except (TypeError, ValueError) as error:
                raise LopeError(
                    f"{location}: the column '{column}' holds what a .jsonl file cannot hold "
                    f"({error}); remove the column, or write its values as text or null."
                ) from None
        raise


def _encoded(row: dict[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_text) + "\n"
    line.encode()  # half of a surrogate pair is no Unicode
    return line


def _text(value: Any) -> str:
    if isinstance(value, _SAID_BY_THEIR_TEXT):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__}")
