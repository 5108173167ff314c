"""A pydantic error list -> sentences that name the key, the value and the way out."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from lope_dist.config.base import alternatives, is_section
from lope_dist.config.other_names import advice_on
from lope_dist.config.removed import advice_on_removed
from lope_dist.core.errors import suggest

_MOST = 5
"""Sentences of one message."""
_ALLOWED = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "string": "a text",
    "none": "null",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
}
"""First word of the kind of a pydantic error -> what would have been no error."""
_EXPECTED = {
    "bool_parsing": "is neither true nor false",
    "bool_type": "is neither true nor false",
    "dict_type": "is no mapping; write its keys below it, each in a line of its own",
    "float_parsing": "is no number",
    "float_type": "is no number",
    "int_from_float": "is no whole number",
    "int_parsing": "is no whole number",
    "int_type": "is no whole number",
    "list_type": "is no list; write [{input}]",
    "model_type": "is no section; write its keys below it, each in a line of its own",
    "string_type": "is no text; put it in quotes",
    "tuple_type": "is no list; write [{input}]",
    "finite_number": "is not finite",
    "greater_than": "is too small; it must be above {gt:g}",
    "greater_than_equal": "is too small; the least is {ge:g}",
    "less_than": "is too large; it must be below {lt:g}",
    "less_than_equal": "is too large; the most is {le:g}",
    "too_short": "has too few entries; the least is {min_length}",
    "too_long": "has too many entries; the most is {max_length}",
}
"""Kind of a pydantic error -> what is wrong; braces name the input and the limits."""


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """Return one sentence an error, at most five, unknown keys first.

    Args:
        error: What validating ``root`` ended with.
        root: The section that stands at the top level.
    """
    items = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    groups: dict[tuple[str, ...], list[Any]] = {}
    for item in items:
        groups.setdefault(_to_the_key(item["loc"], root), []).append(item)
    whole = {key for key in groups if not any(_is_above(key, other) for other in groups)}
    sentences = [_of_a_key(key, groups[key], root) for key in groups if key in whole]
    shown = sentences[:_MOST]
    if len(sentences) > _MOST:
        shown.append(f"{len(sentences) - _MOST} more.")
    return " ".join(shown)


def _is_above(key: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Return whether an error stands inside of what another one is about, and is its cause."""
    return key != other and len(key) > 0 and other[: len(key)] == key


def _of_a_key(key: tuple[str, ...], items: list[Any], root: type[BaseModel]) -> str:
    """Return one sentence on a key; of one that may have values of several types, all of them."""
    if len(items) == 1:
        return _sentence(items[0], root)
    name = ".".join(_without_kinds(key, root))
    allowed = [_ALLOWED.get(item["type"].partition("_")[0]) for item in items]
    pairs = zip(allowed, items, strict=True)
    words = [word or item.get("ctx", {}).get("expected") for word, item in pairs]
    if None in words:  # of a name in there and of its value
        return " ".join(dict.fromkeys(_sentence(item, root) for item in items))
    return (
        f"{name} = {items[0]['input']!r} is not allowed; allowed: {', '.join(words)}."
        f"{_about(key, root)}"
    )


def _to_the_key(loc: tuple[int | str, ...], root: type[BaseModel]) -> tuple[str, ...]:
    """Return where an error is, without the type that a value was tried as."""
    path = tuple(str(part) for part in loc if part != "[key]")
    annotation: Any = root
    for at, part in enumerate(path):
        try:
            annotation = _inside(annotation, part)
        except (KeyError, AttributeError):
            return path if at == len(path) - 1 and is_section(_section(annotation)) else path[:at]
    return path


def _sentence(item: Any, root: type[BaseModel]) -> str:
    loc = tuple(str(part) for part in item["loc"] if part != "[key]")
    key = ".".join(_without_kinds(loc, root))
    if item["type"] == "union_tag_invalid":
        allowed = item["ctx"]["expected_tags"]
        hint = suggest(item["ctx"]["tag"], allowed.replace("'", "").split(", "))
        return f"{key}.kind = '{item['ctx']['tag']}' is not allowed; allowed: {allowed}.{hint}"
    if item["type"] == "extra_forbidden":
        return _unknown_key(loc, root)
    if item["type"] == "missing":
        return f"{key} is required and not given.{_about(loc, root)}"
    if item["type"] == "value_error":
        message = str(item["ctx"]["error"])
        return f"{key}: {message}." if key else f"{message}."
    if item["type"] in ("literal_error", "enum"):
        allowed = item["ctx"]["expected"]
        hint = suggest(
            str(item["input"]), allowed.replace("'", "").replace(" or ", ", ").split(", ")
        )
        return f"{key} = {item['input']!r} is not allowed; allowed: {allowed}.{hint}"
    if item["type"] in _EXPECTED:
        wrong = _EXPECTED[item["type"]].format(input=item["input"], **item.get("ctx", {}))
        return f"{key} = {item['input']!r} {wrong}.{_about(loc, root)}"
    message = item["msg"]
    return f"{key} = {item['input']!r}: {message[:1].lower()}{message[1:]}.{_about(loc, root)}"


def _unknown_key(loc: tuple[str, ...], root: type[BaseModel]) -> str:
    *parents, given = loc
    allowed = _fields_at(parents, root)
    where = ".".join(_without_kinds(parents, root)) or "the top level"
    advice = advice_on_removed(loc) or advice_on(given)
    hint = f" {advice}" if advice else _elsewhere(given, root) or suggest(given, allowed)
    return f"Unknown key '{given}' in {where}.{hint} Allowed there: {', '.join(allowed)}."


def _about(loc: tuple[str, ...], root: type[BaseModel]) -> str:
    """Return what the field is for, as its section documents it."""
    *parents, name = loc
    try:
        about = _fields_at(parents, root)[name].description
    except (KeyError, AttributeError):  # inside a list
        return ""
    return f" ({name}: {' '.join(about.split())})" if about else ""


def _fields_at(path: list[str], root: type[BaseModel]) -> dict[str, Any]:
    """Return the fields of the section at ``path``.

    A name inside a ``dict`` is free; an entry of a list stands at its number; the kind of a
    section that has several stands behind its name.
    """
    annotation: Any = root
    for part in path:
        annotation = _inside(annotation, part)
    return _section(annotation).model_fields


def _inside(annotation: Any, part: str) -> Any:
    """Return the annotation of one part of a path."""
    if part in alternatives(annotation):
        return alternatives(annotation)[part]
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    if get_origin(annotation) is tuple:
        return get_args(annotation)[0]
    return _section(annotation).model_fields[part].annotation


def _without_kinds(path: Sequence[str], root: type[BaseModel]) -> list[str]:
    """Return the path as a recipe has it, without the kinds of sections."""
    shown: list[str] = []
    annotation: Any = root
    for at, part in enumerate(path):
        if part not in alternatives(annotation):
            shown.append(part)
        try:
            annotation = _inside(annotation, part)
        except (KeyError, AttributeError):  # no field: an unknown key, or what a type is tried as
            return [*shown, *path[at + 1 :]]
    return shown


def _elsewhere(given: str, root: type[BaseModel]) -> str:
    """Name the place of a key that is spelt right and stands in the wrong section."""
    matches = [path for path in all_keys(root) if path.rpartition(".")[2] == given]
    return f" Did you mean '{matches[0]}'?" if matches else ""


def all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted keys of a section and of those in it; a mapping's own names are free."""
    paths = []
    for name, field in model.model_fields.items():
        paths.append(prefix + name)
        section = _section(field.annotation)
        if is_section(section) and get_origin(field.annotation) is not dict:
            paths += all_keys(section, f"{prefix}{name}.")
    return paths


def _section(annotation: Any) -> Any:
    """Return the section inside ``Section | None``, ``dict[..., Section]`` or a list of them.

    Of several kinds the first one.
    """
    if kinds := alternatives(annotation):
        return next(iter(kinds.values()))
    if get_origin(annotation) in (dict, tuple, Union, types.UnionType):
        inner = [a for a in get_args(annotation) if is_section(a)]
        return inner[0] if inner else annotation
    return annotation
