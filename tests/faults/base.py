"""What a case of the fault matrix is, and the table of all of them.

A case is a function that gets an empty folder, does harm to real processes or files, and
asserts that what its sentence states came true. It returns figures worth a look (seconds,
counts), which land in the matrix's table. Cases stand in `tests/faults/cases_*.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Harm = Callable[[Path], dict[str, Any]]


class NotRun(Exception):
    """This machine lacks what a case needs: the case says nothing, neither well nor ill."""


@dataclass(frozen=True)
class Case:
    """One way in which a run is harmed, and what must become of it."""

    name: str
    group: str
    """Heading of its table in `docs/reliability.md`."""
    states: str
    """The sentence that the case proves."""
    harm: Harm
    in_ci: bool
    """Whether it is of the subset that every test run makes."""


CASES: dict[str, Case] = {}


def case(name: str, *, group: str, states: str, in_ci: bool = False) -> Callable[[Harm], Harm]:
    """Register the decorated function as a case."""

    def decorate(harm: Harm) -> Harm:
        assert name not in CASES, f"the case '{name}' is there twice"
        CASES[name] = Case(name, group, states, harm, in_ci)
        return harm

    return decorate
