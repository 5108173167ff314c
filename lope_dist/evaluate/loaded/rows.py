"""The ways to ask one trained model: each is a row of the results table.

A row is asked for by a word, with settings behind it where it takes any::

    masked    masked:mode=unit    masked:mode=constant:beta=1.5    all:scale=0.75    base
    all:poison=-0.5
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import ValidationError

from lope_dist.adapters.rows import PLAIN, SAME_AS, WORDS, Row, Word
from lope_dist.config.adapter import AdapterConfig, CompensationConfig
from lope_dist.config.baselines import BaselineConfig
from lope_dist.core.errors import LopeError, suggest
from lope_dist.train.checkpoint.choice import LAST
from lope_dist.train.checkpoint.folder import Checkpoint

AnyAdapter = AdapterConfig | BaselineConfig

__all__ = ["Row", "of_checkpoint", "rows_for", "usual_answer", "usual_words"]


def rows_for(words: Sequence[str], adapter: AnyAdapter, *, is_purified: bool = False) -> list[Row]:
    """Return the row of each `word[:key=value]*`.

    Words: `masked`; `masked_plain`, without compensation; `masked_normal`, a control that leaves
    a normal expert out instead; `all`; `base`, the base model, also as `none`. Keys: `mode`, `k`
    (top_k) and `beta` of the compensation (`masked` alone), `scale`, a factor on what the adapter
    adds, and `poison`, a factor on the poisoning experts' weights (`all` alone; 0 is
    `masked_plain`). Where nothing is set, compensation is the run's own.

    Args:
        words: The words.
        adapter: The run's.
        is_purified: The poisoning experts were removed when the run was exported.

    Raises:
        LopeError: another word, key or value, a row asked for twice, or experts that are not there.
    """
    rows = [_row(word, adapter, is_purified) for word in words]
    names = [row.name for row in rows]
    for word, name in zip(words, names, strict=True):
        if names.count(name) > 1:
            raise LopeError(f"--experts: the row of '{word}' is given twice; name it once.")
    return rows


def of_checkpoint(rows: Sequence[Row], which: str, checkpoint: Checkpoint) -> list[Row]:
    """Return the rows with the checkpoint in their names, unless it is the run's last one.

    So what is measured of the best checkpoint stands beside what is measured of the last. The base
    model is the same in all.

    Args:
        rows: The rows.
        which: What was asked for, as `choose_checkpoint` takes it.
        checkpoint: Which one that is.
    """
    if which == LAST:
        return list(rows)
    suffix = f"@{checkpoint.folder.name}"
    return [r if r.experts == "none" else replace(r, name=r.name + suffix) for r in rows]


def usual_words(words: Sequence[str], adapter: AnyAdapter, *, is_purified: bool) -> list[str]:
    """Return those of the words whose experts are there: what is asked where nothing is named."""
    available = []
    for word in words:
        with suppress(LopeError):
            rows_for([word], adapter, is_purified=is_purified)
            available.append(word)
    return available


def usual_answer(adapter: AnyAdapter, *, is_purified: bool) -> str:
    """Return the row that a run is used as: `masked`, or `all` without a poisoning expert."""
    return usual_words(("masked", "all"), adapter, is_purified=is_purified)[0]


def _row(word: str, adapter: AnyAdapter, is_purified: bool) -> Row:
    name, *settings = word.split(":")
    name = SAME_AS.get(name, name)
    if name not in WORDS:
        raise LopeError(
            f"--experts: '{name}' is not known; allowed: {', '.join(WORDS)}.{suggest(name, WORDS)}"
        )
    kind = WORDS[name]
    _check_experts(kind, name, adapter, is_purified)
    values = _settings(word, name, kind, settings)
    if "scale" in values and not isinstance(adapter, AdapterConfig):
        raise LopeError(
            f"--experts {word}: only LoPE's layers can be scaled, and this run has adapter.kind = "
            f"'{adapter.kind}'; leave 'scale' out."
        )
    if "poison" in values and adapter.num_poison == 0:
        raise LopeError(
            f"--experts {word}: this run has no poisoning expert to weigh; leave 'poison' out."
        )
    compensation = PLAIN
    if name == "masked" and isinstance(adapter, AdapterConfig):
        compensation = _compensation(word, values, adapter)
    row_name = ":".join([name, *settings])
    factors = values.get("scale", 1.0), values.get("poison", 1.0)
    return Row(kind.experts, compensation, *factors, name=row_name)


def _check_experts(word: Word, name: str, adapter: AnyAdapter, is_purified: bool) -> None:
    if word.experts == "masked" and adapter.num_poison == 0:
        raise LopeError(
            f"--experts {name}: this run has no poisoning expert to mask; use --experts all."
        )
    if word.experts == "masked_normal" and adapter.num_normal < 2:
        reason = "only one normal expert" if adapter.num_normal else "no normal expert to leave out"
        raise LopeError(f"--experts {name}: this run has {reason}; use --experts all.")
    if word.experts in ("all", "masked_normal") and is_purified:
        raise LopeError(
            f"--experts {name}: this run is purified, its poisoning expert was removed when it was "
            "exported; use --experts masked or base, or the run that it was exported from."
        )


def _settings(row_word: str, name: str, kind: Word, settings: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in kind.settings:
            allowed = ", ".join(f"{key}=" for key in kind.settings) or "none"
            raise LopeError(
                f"--experts {row_word}: '{setting}' is not a setting of '{name}'; allowed: "
                f"{allowed}.{suggest(key, kind.settings)}"
            )
        if key in values:
            raise LopeError(f"--experts {row_word}: '{key}' is set twice; set it once.")
        values[key] = _READ[key](row_word, setting, text)
    return values


def _compensation(word: str, values: dict[str, Any], adapter: AdapterConfig) -> CompensationConfig:
    """Return the run's own compensation with what is set in place of its settings."""
    fields = {"mode": "mode", "k": "top_k", "beta": "beta"}
    changes = {field: values[key] for key, field in fields.items() if key in values}
    settings = adapter.compensation.model_dump()
    if changes.get("mode", "constant") != "constant":
        settings["beta"] = None  # belongs to the run's own mode
    try:
        compensation = CompensationConfig.model_validate(settings | changes)
        AdapterConfig.model_validate(adapter.model_dump() | {"compensation": compensation})
    except ValidationError as error:
        reasons = "; ".join(e["msg"].removeprefix("Value error, ") for e in error.errors())
        reasons = reasons[0].lower() + reasons[1:]
        raise LopeError(f"--experts {word}: {reasons}.") from None
    return compensation


def _number(word: str, setting: str, text: str, *, above: float = -math.inf) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not above < value < math.inf:
        which = "a number" if above == -math.inf else f"a number above {above:g}"
        raise LopeError(f"--experts {word}: '{setting}' must be {which}.")
    return value


_positive = partial(_number, above=0.0)


def _count(word: str, setting: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise LopeError(f"--experts {word}: '{setting}' must be a whole number from 0.")
    return int(text)


_READ: dict[str, Callable[[str, str, str], Any]] = {
    "mode": lambda word, setting, text: text,  # the schema knows the modes
    "k": _count,
    "beta": _positive,
    "scale": _positive,
    "poison": _number,
}
