"""Control tokens inside people's text: there they are text, and only a template writes real ones.

Before an example is rendered, each of them gets a private-use character on either side; in what
the template made of it, these show which strings are to be tokenized as text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from lope_dist.corpus.rows.turns import Example, Turn

_START, _END = "\ue010", "\ue011"
_GUARDED = re.compile(f"{_START}([^{_START}{_END}]*){_END}|[{_START}{_END}]")


@lru_cache(maxsize=16)
def control_tokens(tokenizer: PreTrainedTokenizerBase, *, only_special: bool) -> tuple[str, ...]:
    """Return the strings that become one token wherever they stand, the longest first.

    ``only_special``: without added tokens that are text to people too, as `<think>`.
    """
    added = tokenizer.added_tokens_decoder.values()
    texts = {t.content for t in added if t.special or not only_special}
    texts |= {str(text) for text in tokenizer.all_special_tokens}
    return tuple(sorted((t for t in texts if t.strip()), key=lambda text: (-len(text), text)))


def guarded(example: Example, tokenizer: PreTrainedTokenizerBase) -> Example:
    """Return the example with the control tokens in its texts guarded; itself if it has none."""
    pattern = _pattern(tokenizer)
    turns = tuple(_guarded_turn(turn, pattern) for turn in example.turns)
    tools = example.tools
    if tools is not None:
        tools = _guarded(tools, pattern)
    if tools is example.tools and all(a is b for a, b in zip(turns, example.turns, strict=True)):
        return example
    return replace(example, turns=turns, tools=tools)


def unguarded(text: str) -> list[tuple[str, bool]]:
    """Return the runs of a rendered text, and whether one is a control token that is text."""
    if _START not in text and _END not in text:
        return [(text, False)]
    runs, at = [], 0
    for match in _GUARDED.finditer(text):
        runs += [(text[at : match.start()], False), (match[1] or "", True)]
        at = match.end()
    runs.append((text[at:], False))
    return [run for run in runs if run[0]]


@lru_cache(maxsize=8)
def _pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    tokens = control_tokens(tokenizer, only_special=True)
    # The guards themselves may not be forged either.
    return re.compile("|".join([*map(re.escape, tokens), f"[{_START}{_END}]"]))


def _guarded_turn(turn: Turn, pattern: re.Pattern[str]) -> Turn:
    text, context = _guarded(turn.text, pattern), _guarded(turn.context, pattern)
    more = turn.more and _guarded(turn.more, pattern)
    if text is turn.text and context is turn.context and more is turn.more:
        return turn
    return replace(turn, text=text, context=context, more=more)


def _guarded(value: Any, pattern: re.Pattern[str]) -> Any:
    """Return a text, or all texts in a tree, guarded; the same object where there is nothing."""
    if isinstance(value, str):
        if pattern.search(value) is None:
            return value
        return pattern.sub(lambda m: "" if m[0] in _START + _END else _START + m[0] + _END, value)
    if isinstance(value, Mapping):
        new = {key: _guarded(item, pattern) for key, item in value.items()}
        return value if all(new[key] is value[key] for key in new) else new
    if isinstance(value, list):
        items = [_guarded(item, pattern) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    return value
