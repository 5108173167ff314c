"""What a case of the fault matrix is, and the table of all of them.

A case is a function that gets an empty folder, does harm to real processes or files, and
asserts that what its sentence states came true. It returns figures worth a look (seconds,
counts), which land in the matrix's table. Cases stand in `tests/faults/cases_*.py`, and any file
of that name is found. To add one:

    @case("what happens", group="Heading of its table", states="What must become of it.")
    def _what_happens(folder: Path) -> dict[str, Any]:
        recipe = finished_run(folder)          # commands.py: no training of its own
        (folder / "run" / "results.json").write_text("{")
        works("report", folder / "run", told=("damaged",))
        return {}

and `PYTHONPATH=.:tests python -m faults.run --only "what happens"`. `commands.py` runs `lope` in
the case's process, in seconds; `runs.py` starts ranks that harm themselves at a moment;
`launchers.py` and `hosts.py` are for whole hosts. `in_ci=True` is for kinds that no unit test has,
and costs every test run what the case takes.
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
    limit_s: float = 1200.0
    """What has not ended by then is lost."""


CASES: dict[str, Case] = {}


def case(
    name: str, *, group: str, states: str, in_ci: bool = False, limit_s: float = 1200.0
) -> Callable[[Harm], Harm]:
    """Register the decorated function as a case."""

    def decorate(harm: Harm) -> Harm:
        assert name not in CASES, f"the case '{name}' is there twice"
        CASES[name] = Case(name, group, states, harm, in_ci, limit_s)
        return harm

    return decorate
