"""An engine around another one: what a kind of its own does not change is the inner one's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lope_dist.engine.base import OpenEngine as _Whole
else:
    _Whole = object


class EngineAround(_Whole):
    """An `Engine` that hands on to the inner one whatever its own class does not define."""

    def __init__(self, engine: _Whole) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)
