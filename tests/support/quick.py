"""Which cases of a parametrized test `make test` runs; the others are left to `make test-all`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quick(cases: Iterable[Any], *few: Any) -> list[Any]:
    """Return the cases, those that are not among the few marked `thorough`.

    Each of the few must be a case, so that none is lost by a new name.
    """
    cases = list(cases)
    missing = [case for case in few if case not in cases]
    assert not missing, f"no such cases: {missing}"
    return [
        case if case in few else pytest.param(*_values(case), marks=pytest.mark.thorough)
        for case in cases
    ]


def _values(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)
