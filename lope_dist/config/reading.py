"""What a stranger's recipe may do while it is read: see no secret, take no hour."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.resolvers import oc

from lope_dist.core.errors import LopeError, first_line
from lope_dist.core.limits import bounded

_MOST_SECONDS, _MOST_MIB = 20.0, 1024
_recipe: ContextVar[str | None] = ContextVar("recipe", default=None)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Context in which a recipe is read and resolved.

    `${oc.env:...}` gives variables whose names start with LOPE_ and no others. What is guarded is
    the resolver itself, so it does not matter how a recipe came to call it. Other users of
    OmegaConf in this process are not affected.

    Raises:
        LopeError: the recipe takes too much time or memory.
    """
    OmegaConf.register_resolver("oc.env", _environment, replace=True)
    token = _recipe.set(str(path))
    try:
        with bounded(str(path), seconds=_MOST_SECONDS, mib=_MOST_MIB):
            yield
    finally:
        _recipe.reset(token)


@contextmanager
def parsing(what: str) -> Iterator[None]:
    """Context that turns the errors of parsers into one sentence.

    Raises:
        LopeError: ``what``, and the first line of what they say.
    """
    try:
        yield
    except (LopeError, MemoryError):
        raise
    except Exception as error:  # of any kind: a stranger's text, through two parsers
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, (LopeError, MemoryError)):  # from within a resolver
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise LopeError(f"{what}: {_parser_message(error)}.") from None


def _parser_message(error: Exception) -> str:
    """Return what a parser says, with line and column where it knows them."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return first_line(error)


def _environment(key: str, *default: Any) -> Any:
    recipe = _recipe.get()
    if recipe is not None and not str(key).startswith("LOPE_"):
        raise LopeError(
            f"{recipe}: ${{oc.env:{key}}} asks for a variable whose name does not start with "
            "LOPE_; others may be secrets, and what a recipe reads is written into run.yaml."
        )
    return oc.env(key, *default)
