"""What every section of the configuration has in common."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Discriminator, Tag


class Section(BaseModel):
    """A frozen section that refuses unknown keys; field docs are the docstrings below them."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


def by_kind(usual: str) -> Discriminator:
    """Return what chooses a section by its `kind`; one that gives none is of the usual kind."""

    def kind_of(value: Any) -> str:
        if isinstance(value, dict):
            return str(value.get("kind", usual))
        return str(getattr(value, "kind", usual))

    return Discriminator(kind_of)


def is_section(annotation: Any) -> bool:
    """Return whether an annotation is a section itself."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def alternatives(annotation: Any) -> dict[str, type[BaseModel]]:
    """Return the sections that a field chooses among by their `kind`, {} if it has no choice."""
    tagged = [a for a in get_args(annotation) if get_origin(a) is Annotated]
    return {
        a.__metadata__[0].tag: a.__origin__ for a in tagged if isinstance(a.__metadata__[0], Tag)
    }
