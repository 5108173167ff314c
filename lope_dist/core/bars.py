"""How far something is: a bar on a terminal, elsewhere now and then a whole line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import closing, contextmanager
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from lope_dist.core.console import stderr, tell

T = TypeVar("T")
EVERY_S = 60.0
"""Between two lines."""
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class Bar(Protocol):
    """Something that is counted up to a total."""

    def update(self, n: float = 1) -> object:
        """Add ``n``, which may be a fraction, to the count."""
        ...

    def set_postfix_str(self, s: str, refresh: bool = True) -> None:
        """Set the text behind the count; with ``refresh`` it is shown at the next possible time."""
        ...

    def close(self) -> None:
        """End the bar."""
        ...


def bar(
    what: str,
    total: int | None,
    unit: str,
    *,
    done: int = 0,
    is_shown: bool = True,
    is_kept: bool = True,
) -> Bar:
    """Return a bar on stderr; whoever makes it closes it.

    Args:
        what: What is being done.
        total: Up to which number, if that is known.
        unit: What is counted, in the plural.
        done: How many of them were done before.
        is_shown: Whether to show anything.
        is_kept: Whether the bar stays when it ends; without a terminal, whether the end has a
            line even if it comes soon.
    """
    if is_shown and not stderr().isatty():
        return _Lines(what, total, unit, done, is_kept)
    return tqdm(  # pyright: ignore[reportReturnType]
        total=total,
        file=stderr(),
        desc=what,
        unit=f" {unit}",
        initial=done,
        disable=not is_shown,
        leave=is_kept,
        delay=0 if is_kept else 2,
        mininterval=0.2,
        dynamic_ncols=True,
        bar_format=_FORMAT if total else None,
    )


def counted(
    items: Iterable[T], what: str, unit: str, *, total: int | None = None, is_shown: bool = True
) -> Iterator[T]:
    """Yield the items, with a bar over them; ``total`` is known of a list."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with closing(bar(what, total, unit, is_shown=is_shown)) as shown:
        for item in items:
            yield item
            shown.update()


@contextmanager
def transformers_bars_on_a_terminal() -> Iterator[None]:
    """Context in which transformers draws its own bars on a terminal, and nothing into a file."""
    from transformers.utils.logging import set_tqdm_hook

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return factory(*args, **{"disable": None} | named)

    before = set_tqdm_hook(hook)
    try:
        yield
    finally:
        set_tqdm_hook(before)


def clock(seconds: float) -> str:
    """Return ``"0:04:59"``, ``"12:00:00"`` or ``"2 d 03:04:05"``."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days} d {h:02d}:{m:02d}:{s:02d}" if days else f"{h}:{m:02d}:{s:02d}"


def _count(number: float) -> str:
    whole = round(number)
    return f"{whole:,}" if abs(number - whole) < 1e-6 else f"{number:,.1f}"


class _Lines:
    """The bar of an output that is no terminal: a line now and then."""

    def __init__(self, what: str, total: int | None, unit: str, done: int, is_kept: bool) -> None:
        self._what, self._total, self._unit, self._is_kept = what, total, unit, is_kept
        self._before = done
        self._done: float = done
        self._behind, self._is_said = "", False
        self._since = self._last = time.monotonic()

    def update(self, n: float = 1) -> None:
        self._done, self._is_said = self._done + n, False
        if time.monotonic() - self._last >= EVERY_S:
            self._say()

    def set_postfix_str(self, s: str, refresh: bool = True) -> None:
        self._behind = s
        if refresh and time.monotonic() - self._last >= EVERY_S:
            self._say()

    def close(self) -> None:
        if self._is_kept and not self._is_said:
            self._say()
        self._is_kept = False

    def _say(self) -> None:
        now = time.monotonic()
        self._last, self._is_said = now, True
        counts, took = _count(self._done), now - self._since
        if self._total is not None:
            counts += f" of {self._total:,}"
        line = f"{time.strftime('%H:%M:%S')} {self._what}: {counts} {self._unit}, {clock(took)}"
        made = self._done - self._before
        if self._total is not None and made > 0 and self._total - self._done > 1e-6:
            line += f", ETA {clock((self._total - self._done) * took / made)}"
        tell(f"{line}, {self._behind}" if self._behind else line)
