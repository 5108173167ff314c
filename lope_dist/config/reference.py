"""`docs/configuration.md` from the schema: `python -m lope_dist.config.reference`.

Everything in it is read from the sections: a field's docstring is its meaning, so the page
cannot say anything else than the code does.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lope_dist.config.base import alternatives, is_section
from lope_dist.config.schema import RunConfig
from lope_dist.core.roles import ADAPTER_ROLES

_HEAD = """\
# Configuration

<!-- Written by `make docs` from lope_dist/config/. Do not edit: edit the docstrings there. -->

A recipe is YAML: its `include` layers (paths relative to the including file) in order, then the
file itself, then overrides of the command line, `key=value` with the dotted keys below. The
later one wins. Unknown keys and impossible values are errors. `lope check RECIPE --full` prints a
recipe resolved, and each run keeps that as `run.yaml`.

`<name>` stands for a stage's name of your choice and `<role>` for a role of its `trainable`. Roles
are {roles}. `[]` stands for an entry of a list.
"""
_FILLED_IN = {"train.stages": "the paper's two"}
"""Required fields that a validator of `RunConfig` fills in."""
_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean"}
_BOUNDS = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}


def reference() -> str:
    """Return the page: a heading for each section, a table row for each key."""
    roles = _either([f"`{role}`" for role in ADAPTER_ROLES], "and")
    return _HEAD.format(roles=roles) + "".join(_section(RunConfig, ""))


def _section(section: type[BaseModel], path: str, kind: str = "") -> Iterator[str]:
    """Yield a section's own keys, then the sections inside it.

    With a ``kind``, `path` may be another section too, which has other keys.
    """
    for name, field in section.model_fields.items():
        default = field.get_default(call_default_factory=True)
        # Another default than the class's own is lost as soon as one key of the section is given.
        assert not isinstance(default, BaseModel) or default == type(default)(), f"{path}.{name}"
    prefix = f"{path}." if path else ""
    inner = {
        f"{prefix}{name}{_free_name(field)}": _sections_in(field.annotation)
        for name, field in section.model_fields.items()
    }
    rows = [
        _row(prefix + name, field)
        for name, field in section.model_fields.items()
        if not is_section(field.annotation) and not alternatives(field.annotation)
    ]
    title = f"`{path}`" if path else "Top level"
    if kind:
        title += f" of kind `{kind}`"
    yield f"\n{'##' if '.' not in path else '###'} {title}\n"
    yield f"\n{inspect.cleandoc(section.__doc__ or '')}\n"
    if rows:
        yield "\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n"
        yield from rows
    for key, kinds in inner.items():
        for nested_kind, nested in kinds.items():
            yield from _section(nested, key, nested_kind)


def _row(key: str, field: FieldInfo) -> str:
    assert field.description, f"{key} has no docstring"
    bounds = [_bound(entry) for entry in field.metadata]
    kind = ", ".join([_kind(field.annotation), *filter(None, bounds)])
    cells = (f"`{key}`", kind, _default(key, field), " ".join(field.description.split()))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _kind(annotation: Any) -> str:
    """Return a type as a reader of YAML knows it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _either([f"`{value}`" for value in arguments], "or")
    if origin in (Union, types.UnionType):
        kinds = [_kind(a) for a in arguments if a is not types.NoneType]
        return _either([*kinds, "`null`"] if types.NoneType in arguments else kinds, "or")
    if origin is dict:
        return "mapping"
    if origin is tuple:
        if Ellipsis in arguments:
            what = "sections" if is_section(arguments[0]) else _kind(arguments[0])
            return f"list of {what}"
        return f"list of {len(arguments)} × {_kind(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "role"
    if is_section(annotation):
        return "section"
    return _NAMES[annotation]


def _either(words: list[str], last: str) -> str:
    """Return `a, b or c`."""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _bound(entry: Any) -> str:
    if isinstance(entry, MinLen):
        return f"at least {entry.min_length}"
    if type(entry) in _BOUNDS:
        name, sign = _BOUNDS[type(entry)]
        return f"{sign} {getattr(entry, name)}"
    return ""


def _default(key: str, field: FieldInfo) -> str:
    if key in _FILLED_IN:
        return _FILLED_IN[key]
    if field.is_required():
        return "required"
    return f"`{_yaml(field.get_default(call_default_factory=True))}`"


def _yaml(value: Any) -> str:
    """Return a default as one would write it in a recipe."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if value == {}:
        return "{}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _free_name(field: FieldInfo) -> str:
    """Return what stands for the free keys of a mapping of sections, or a place in a list."""
    if get_origin(field.annotation) is tuple:
        return "[]"
    if get_origin(field.annotation) is not dict:
        return ""
    keys = get_args(field.annotation)[0]
    return ".<name>" if keys is str else ".<role>"


def _sections_in(annotation: Any) -> dict[str, type[BaseModel]]:
    """Return the section that a field holds, itself or by name; several by their kind."""
    sections = [a for a in (annotation, *get_args(annotation)) if is_section(a)]
    return alternatives(annotation) or ({"": sections[0]} if sections else {})


if __name__ == "__main__":
    print(reference(), end="")
