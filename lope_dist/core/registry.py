"""A name -> object table that says what is known when asked for what is not."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from lope_dist.core.errors import LopeError, suggest

T = TypeVar("T")


class Registry(Generic[T]):
    """Named objects of one kind, registered where they are written.

    Args:
        kind: What the entries are, for error messages (``"noise operation"``).
        package: Package whose modules register entries; imported at the first look-up,
            so that adding an entry means adding one file.
    """

    def __init__(self, kind: str, package: str | None = None) -> None:
        self._kind = kind
        self._package = package
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Register the decorated object under ``name``; two objects of one name are a bug."""

        def decorate(entry: T) -> T:
            registered = self._entries.setdefault(name, entry)
            assert registered is entry, f"{self._kind} '{name}' is registered twice"
            return entry

        return decorate

    def __getitem__(self, name: str) -> T:
        """Return the entry; raises ``LopeError`` that lists the known names."""
        self._discover()
        if name not in self._entries:
            names = ", ".join(self)
            hint = suggest(name, self._entries)
            raise LopeError(f"Unknown {self._kind} '{name}'.{hint} Known: {names}.")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._entries))

    def _discover(self) -> None:
        if self._package is None:
            return
        package, self._package = importlib.import_module(self._package), None
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
