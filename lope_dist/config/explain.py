"""A pydantic error list -> sentences that name the key, the value and the way out."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

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
    key = ".".join(loc)
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
    where = ".".join(parents) or "the top level"
    hint = _elsewhere(given) or suggest(given, allowed)
    return f"Unknown key '{given}' in {where}.{hint} Allowed there: {', '.join(allowed)}."


def _about(loc: tuple[str, ...]) -> str:
    """Return what the field is for, as its section documents it."""
    *parents, name = loc
    try:
        about = _fields_at(parents)[name].description
    except KeyError:  # inside a list
        return ""
    return f" ({name}: {' '.join(about.split())})" if about else ""


def _fields_at(path: list[str]) -> dict[str, Any]:
    """Return the fields of the section at ``path``.

    A name inside a ``dict`` is free; an entry of a list stands at its number.
    """
    annotation: Any = RunConfig
    for part in path:
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        elif get_origin(annotation) is tuple:
            annotation = get_args(annotation)[0]
        else:
            annotation = _section(annotation).model_fields[part].annotation
    return _section(annotation).model_fields


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
    """Return the section inside ``Section | None``, ``dict[..., Section]`` or a list of them."""
    if get_origin(annotation) in (dict, tuple, Union, types.UnionType):
        inner = [a for a in get_args(annotation) if _is_section(a)]
        return inner[0] if inner else annotation
    return annotation


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
