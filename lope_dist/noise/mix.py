"""The mix of operations on a batch of examples (HyNoIse's discrete part)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lope_dist.config.noise import NoiseConfig, ResponseNoiseConfig, TextNoiseConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.seeds import derive_key
from lope_dist.noise.base import NOISE, ResponseOperation
from lope_dist.noise.characters import edit_characters
from lope_dist.noise.draws import Keys, as_uniform, child_keys
from lope_dist.noise.edits import Edit, edit_words, splice
from lope_dist.noise.hits import draw_hits
from lope_dist.noise.marks import Change, Marks, marks_after
from lope_dist.noise.words import WordTable, word_table

DATA_NOISE = "data-noise"
"""Purpose of the data set's own noise; its epoch is always 0."""
TEXT_NOISE = "text-noise"
"""Purpose of the noise that a stage injects, new in every epoch."""

_RESPONSES_FORM = 2
"""1: answers with brackets or with few different others around them were not hit."""
_CHARACTERS_AT_ONCE = 1 << 17
"""So many that numpy's calls weigh little and its arrays stay in the cache."""
# What a key's children are for; the places of texts come after them.
_WHICH_EXAMPLE, _WHICH_RESPONSE, _OF_RESPONSE, _FIRST_PLACE = range(4)


@dataclass
class Corrupted:
    """Texts after noise, and what was hit in them."""

    texts: list[str]
    """An untouched text is the same object as before."""
    hits: list[tuple[int, str, int]]
    """(number of the text, operation, units hit); an operation may stand there repeatedly."""
    marks: list[Marks] | None = None
    """Of each text, where they were asked for."""


def identity_of(config: TextNoiseConfig) -> dict[str, Any]:
    """Return what decides the noise of a text, JSON-able: the settings, and how they are read."""
    identity = config.model_dump(mode="json")
    if config.responses.rate > 0:
        identity["responses"]["form"] = _RESPONSES_FORM
    return identity


def example_keys(seed: int, purpose: str, epoch: int, ids: Sequence[int]) -> Keys:
    """Return the key of each example, a function of (seed, purpose, epoch, example id)."""
    base = np.uint64(derive_key(seed, purpose, epoch))
    return child_keys(np.full(len(ids), base), np.asarray(ids, np.int64))


def corrupt(
    texts: Sequence[str],
    owners: Sequence[int],
    numbers: Sequence[int],
    keys: Keys,
    config: TextNoiseConfig,
    marks: Sequence[Marks] | None = None,
) -> Corrupted:
    """Return the texts with noise in them; words stay in their text.

    What becomes of a text depends on itself, its example's key and its number there alone, not on
    the others in the batch.

    Args:
        texts: Fields of any number of examples.
        owners: For each text, the index of its example in ``keys``.
        numbers: For each text, a number from 0 that tells it from the others of its example.
        keys: One key for each example.
        config: Rate, unit, operations and strength; its fields and responses are the caller's.
        marks: What earlier noise changed in each text; given, those of the new texts are told.

    Paper: section 3.2.
    """
    result = Corrupted(list(texts), [], None if marks is None else list(marks))
    if config.rate == 0 or not texts:
        return result
    of_text = np.asarray(owners, np.int64)
    text_keys = child_keys(keys[of_text], np.asarray(numbers, np.int64) + _FIRST_PLACE)
    if config.unit != "example":
        rates = {name: config.rate * share for name, share in config.shares.items()}
        _corrupt_units(result, np.arange(len(texts)), of_text, text_keys, rates, config.unit)
        return result
    assert config.strength is not None, "the schema sees to that"
    u = as_uniform(child_keys(keys, _WHICH_EXAMPLE))
    chosen = _choose(u, config.rate, config.shares)[of_text]
    for number, name in enumerate(config.shares):
        hit_texts = np.flatnonzero(chosen == number)
        _corrupt_units(result, hit_texts, of_text, text_keys, {name: config.strength}, "word")
    result.hits.sort()
    return result


def corrupt_responses(
    responses: Sequence[str],
    others: Callable[[int, int], str | None],
    keys: Keys,
    config: ResponseNoiseConfig,
) -> Iterator[tuple[int, str, str]]:
    """Yield (number, operation, new answer) of each answer that is hit.

    Args:
        responses: One answer of each example.
        others: (number of the example, 64 random bits) -> the answer of another example.
        keys: One key for each example.
        config: Rate and operations.
    """
    if config.rate == 0:
        return
    chosen = _choose(as_uniform(child_keys(keys, _WHICH_RESPONSE)), config.rate, config.shares)
    response_keys = child_keys(keys, _OF_RESPONSE)
    names = list(config.shares)
    for number in np.flatnonzero(chosen >= 0).tolist():
        name, key, old = names[chosen[number]], int(response_keys[number]), responses[number]
        operation = NOISE[name]
        assert isinstance(operation, ResponseOperation)
        if not old.strip():
            continue
        new = operation.apply(old, lambda n=number, k=key: others(n, k), key)
        if new is not None and new != old:
            yield number, name, new


def check_operations(config: NoiseConfig) -> None:
    """Check that all configured operations are registered and have the unit asked for.

    Raises:
        LopeError: an unknown name, or one that has no such unit; tells the allowed ones.
    """
    for key in ("text", "data"):
        section: TextNoiseConfig = getattr(config, key)
        _check_names(f"noise.{key}.operations", section.shares, section.unit)
        _check_names(f"noise.{key}.responses.operations", section.responses.shares, "response")


def _check_names(key: str, names: dict[str, float], unit: str) -> None:
    for name in names:
        try:
            units = NOISE[name].units
        except LopeError as error:
            raise LopeError(f"{key}: {error}") from None
        if unit in units:
            continue
        allowed = ", ".join(other for other in NOISE if unit in NOISE[other].units)
        if unit == "response":
            reason = "works on words, not on whole answers; put it under operations beside them"
        elif "response" in units:
            reason = "works on whole answers; put it under responses.operations"
        else:
            reason = f"has no unit '{unit}'"
        raise LopeError(f"{key}: '{name}' {reason}. Allowed here: {allowed}.")


def _choose(u: NDArray[np.float64], rate: float, shares: dict[str, float]) -> NDArray[np.int64]:
    """Return which operation each uniform number means, or -1 for none."""
    ends = np.cumsum(list(shares.values())) * rate
    chosen = np.minimum(np.searchsorted(ends, u, "right"), len(shares) - 1)
    return np.where(u < rate, chosen, -1)


def _corrupt_units(
    result: Corrupted,
    chosen: NDArray[np.int64],
    owners: NDArray[np.int64],
    keys: Keys,
    rates: dict[str, float],
    unit: str,
) -> None:
    """Hit words or characters of the chosen texts."""
    for batch in _batches(result.texts, chosen, owners):
        numbers = batch.tolist()
        table = word_table([result.texts[i] for i in numbers], owners[batch])
        if unit == "character":
            edits = edit_characters(table, keys[batch], rates)
        else:
            edits = edit_words(table, draw_hits(table, keys[batch], rates))
        changes = None if result.marks is None else _changes(table, edits)
        for text, new in splice(table, edits):
            number = numbers[text]
            if result.marks is not None and changes is not None:
                old, marks = result.texts[number], result.marks[number]
                result.marks[number] = marks_after(old, marks, changes[text], new)
            result.texts[number] = new
        result.hits += [(numbers[text], name, n) for _, _, _, text, name, n in edits if n]


def _changes(table: WordTable, edits: Sequence[Edit]) -> dict[int, list[Change]]:
    """Return the changes of each text that has edits, with places in the text itself."""
    changes: dict[int, list[Change]] = {}
    for start, end, new, text, _, _ in edits:
        first = int(table.text_starts[text])
        changes.setdefault(text, []).append((start - first, end - first, new))
    return changes


def _batches(
    texts: list[str], chosen: NDArray[np.int64], owners: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Split texts by whether they are ASCII, for which all is faster, and by size.

    What an example has of either kind stays together, so that its noise is its own.
    """
    is_ascii = np.array([texts[i].isascii() for i in chosen.tolist()], np.bool_)
    for group in (chosen[is_ascii], chosen[~is_ascii]):
        if len(group):
            size = np.cumsum([len(texts[i]) for i in group.tolist()]) // _CHARACTERS_AT_ONCE
            starts = np.flatnonzero(np.diff(owners[group], prepend=-1))
            cuts = starts[1:][np.diff(size[starts]) > 0]
            yield from np.split(group, cuts)
