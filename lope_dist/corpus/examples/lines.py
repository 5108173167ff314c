"""An example as a line of the store: JSON, behind its weight where that is not 1.

So the JSON says what an example teaches, and it alone decides which rows are held out.
"""

from __future__ import annotations

import json
from typing import Any

from lope_dist.corpus.rows.readers.base import ROW_LIMIT
from lope_dist.corpus.rows.readers.lines import too_long
from lope_dist.corpus.rows.turns import Example, RowError, Turn

_ENCODE = json.JSONEncoder(ensure_ascii=False, default=str).encode  # dates and such are text
_WEIGHS = "@"  # what a weight stands behind; no JSON begins with it


def line_of(example: Example) -> bytes:
    """Return an example in the store's form.

    Raises:
        RowError: text that is no Unicode, or too much of it.
    """
    turns = [_turn_of(turn) for turn in example.turns]
    tree: Any = turns
    if example.tools or example.is_plain or example.tokens:
        tree = {"turns": turns, "tools": example.tools, "plain": example.is_plain}
        tree["tokens"] = example.tokens
    try:
        line = _ENCODE(tree).encode()
    except UnicodeEncodeError:
        raise RowError(
            "not valid Unicode",
            "half of a surrogate pair in the text (a \\ud800 to \\udfff escape without its "
            "partner); remove it",
        ) from None
    except (TypeError, ValueError) as error:
        raise RowError("not JSON", f"it holds a value that JSON cannot express: {error}") from None
    if len(line) > ROW_LIMIT:
        raise too_long()
    return line if example.weight == 1 else f"{_WEIGHS}{example.weight!r} ".encode() + line


def example_of(index: int, line: bytes) -> Example:
    """Return the example that `line_of` wrote."""
    weight = 1.0
    if line.startswith(_WEIGHS.encode()):
        number, line = line[len(_WEIGHS) :].split(b" ", 1)
        weight = float(number)
    tree = json.loads(line)
    if isinstance(tree, list):
        return Example(index, tuple(Turn(*turn) for turn in tree), weight=weight)
    tokens = tree["tokens"] and (tree["tokens"][0], tree["tokens"][1])
    turns = tuple(Turn(*turn) for turn in tree["turns"])
    return Example(index, turns, tree["tools"], tree["plain"], tokens, weight)


def without_weight(line: bytes) -> bytes:
    """Return what `line_of` wrote of an example, however much it weighs."""
    return line.split(b" ", 1)[1] if line.startswith(_WEIGHS.encode()) else line


def _turn_of(turn: Turn) -> list[Any]:
    if turn.more:
        return [turn.role, turn.text, turn.context, turn.is_learnt, turn.more]
    if not turn.is_learnt:
        return [turn.role, turn.text, turn.context, False]
    return [turn.role, turn.text, turn.context]
