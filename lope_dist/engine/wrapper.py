"""The base of engines that wrap another one and change some of what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lope_dist.engine.base import OpenEngine as _Whole
else:
    _Whole = object


class EngineWrapper(_Whole):
    """An `Engine` whose inner engine does whatever its own class does not define."""

    def __init__(self, engine: _Whole) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)
