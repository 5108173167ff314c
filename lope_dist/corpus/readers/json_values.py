"""Values of JSON, with numbers that JSON can hold."""

from __future__ import annotations

import json
import math
from typing import Any

from lope_dist.corpus.turns import RowError


def _not_a_number(name: str) -> Any:
    raise RowError(
        "not valid JSON", f"not valid JSON: {name} is no JSON number; write null or a number"
    )


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise RowError(
            "number out of range", f"the number {digits[:20]} is too large; write it as a string"
        )
    return number


_DECODER = json.JSONDecoder(parse_constant=_not_a_number, parse_float=_finite)
_ENDS = json.JSONDecoder(parse_int=str, parse_float=str)
"""Takes every number, to find where a value ends."""


def parse_value(text: str, start: int = 0) -> tuple[Any, int]:
    """Return the value that begins at ``start`` of a text, and where it ends.

    The value is a `RowError` if it holds a number that JSON or Python cannot hold.

    Raises:
        JSONDecodeError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError:
        raise
    except RowError as error:
        return error, _ENDS.raw_decode(text, start)[1]
    except ValueError:  # Python's limit of digits
        problem = RowError(
            "number out of range", "a whole number of thousands of digits; write it as a string"
        )
        return problem, _ENDS.raw_decode(text, start)[1]


def parse_line(text: str) -> Any:
    """Return the one value of a line.

    Raises:
        RowError: it is no JSON, or holds a number that cannot be held.
    """
    start = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, end = parse_value(text, start)
        if rest := text[end:].lstrip(" \t\r\n"):
            raise json.JSONDecodeError("Extra data", text, len(text) - len(rest))
    except json.JSONDecodeError as error:
        reason = f"not valid JSON: {error.msg} (column {error.colno})"
    except RecursionError:
        reason = "not valid JSON: nested too deeply"
    else:
        if isinstance(value, RowError):
            raise value
        return value
    raise RowError("not valid JSON", reason)
