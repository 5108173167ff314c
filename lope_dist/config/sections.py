"""Is a tree of values a configuration at all, of whatever version?"""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from lope_dist.config.schema import RunConfig


def has_sections(tree: Any) -> bool:
    """Return whether mappings and lists stand where a configuration has them.

    Keys and values may be those of another version; who reads them asks for each.
    """
    return isinstance(tree, dict) and _fits(tree, RunConfig)


def _fits(value: Any, kind: Any) -> bool:
    if value is None:
        return True
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = kind.model_fields.items()
        return isinstance(value, dict) and all(
            _fits(value.get(name), field.annotation) for name, field in fields
        )
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _fits(value, parts[0])
    if origin is dict:
        return isinstance(value, dict) and all(_fits(each, parts[1]) for each in value.values())
    if origin is tuple:
        return isinstance(value, list) and all(_fits(each, parts[0]) for each in value)
    inner = [part for part in parts if part is not type(None) and not isinstance(part, str)]
    return not inner or any(_fits(value, part) for part in inner)
