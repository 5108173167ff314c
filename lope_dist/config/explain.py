"""A pydantic error list -> sentences that name the key, the value and the way out."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from lope_dist.config.base import alternatives
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import suggest


def explain(error: ValidationError) -> str:
    """Return one sentence an error, at most five, unknown keys first."""
    items = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    sentences = [_sentence(item) for item in items[:5]]
    if len(items) > 5:
        sentences.append(f"{len(items) - 5} more.")
    return " ".join(sentences)


def _sentence(item: Any) -> str:
    loc = tuple(str(part) for part in item["loc"])
    key = ".".join(_without_kinds(loc))
    if item["type"] == "union_tag_invalid":
        allowed = item["ctx"]["expected_tags"]
        hint = suggest(item["ctx"]["tag"], allowed.replace("'", "").split(", "))
        return f"{key}.kind = '{item['ctx']['tag']}' is not allowed; allowed: {allowed}.{hint}"
    if item["type"] == "extra_forbidden":
        return _unknown_key(loc)
    if item["type"] == "missing":
        return f"{key} is required and not given."
    if item["type"] == "value_error":
        message = str(item["ctx"]["error"])
        return f"{key}: {message}." if key else f"{message}."
    if item["type"] in ("literal_error", "enum"):
        allowed = item["ctx"]["expected"]
        hint = suggest(
            str(item["input"]), allowed.replace("'", "").replace(" or ", ", ").split(", ")
        )
        return f"{key} = {item['input']!r} is not allowed; allowed: {allowed}.{hint}"
    message = item["msg"]
    return f"{key} = {item['input']!r}: {message[:1].lower()}{message[1:]}.{_about(loc)}"


def _unknown_key(loc: tuple[str, ...]) -> str:
    *parents, given = loc
    allowed = _fields_at(parents)
    where = ".".join(_without_kinds(parents)) or "the top level"
    hint = _elsewhere(given) or suggest(given, allowed)
    return f"Unknown key '{given}' in {where}.{hint} Allowed there: {', '.join(allowed)}."


def _about(loc: tuple[str, ...]) -> str:
    """Return what the field is for, as its section documents it."""
    *parents, name = loc
    try:
        about = _fields_at(parents)[name].description
    except (KeyError, AttributeError):  # inside a list
        return ""
    return f" ({name}: {' '.join(about.split())})" if about else ""


def _fields_at(path: list[str]) -> dict[str, Any]:
    """Return the fields of the section at ``path``.

    A name inside a ``dict`` is free; an entry of a list stands at its number; the kind of a
    section that has several stands behind its name.
    """
    annotation: Any = RunConfig
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


def _without_kinds(path: Sequence[str]) -> list[str]:
    """Return the path as one writes it."""
    shown: list[str] = []
    annotation: Any = RunConfig
    for at, part in enumerate(path):
        if part not in alternatives(annotation):
            shown.append(part)
        try:
            annotation = _inside(annotation, part)
        except (KeyError, AttributeError):  # no field: an unknown key, or what a type is tried as
            return [*shown, *path[at + 1 :]]
    return shown


def _elsewhere(given: str) -> str:
    """Name the place of a key that is spelt right and stands in the wrong section."""
    found = [path for path in _all_paths(RunConfig) if path.rpartition(".")[2] == given]
    return f" Did you mean '{found[0]}'?" if found else ""


def _all_paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    paths = []
    for name, field in model.model_fields.items():
        paths.append(prefix + name)
        section = _section(field.annotation)
        if _is_section(section) and get_origin(field.annotation) is not dict:
            paths += _all_paths(section, f"{prefix}{name}.")
    return paths


def _section(annotation: Any) -> Any:
    """Return the section inside ``Section | None``, ``dict[..., Section]`` or a list of them.

    Of several kinds the first one.
    """
    if kinds := alternatives(annotation):
        return next(iter(kinds.values()))
    if get_origin(annotation) in (dict, tuple, Union, types.UnionType):
        inner = [a for a in get_args(annotation) if _is_section(a)]
        return inner[0] if inner else annotation
    return annotation


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
