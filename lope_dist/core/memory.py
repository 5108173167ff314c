"""Sizes of memory as people write them, `80GiB`, `24GB`, and this process's own."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import psutil

from lope_dist.core.errors import LopeError

_UNITS = {"": 1024**3, "B": 1}
for _power, _letter in enumerate("KMGTP", start=1):
    _UNITS |= {f"{_letter}B": 1000**_power, f"{_letter}IB": 1024**_power}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def parse_bytes(text: str, what: str) -> int:
    """Return the bytes that ``text`` names: GB is 10^9, GiB is 2^30; a bare number is GiB.

    Args:
        text: For example `80GiB`, `24GB`, `1.5 TiB`.
        what: Whose size this is, for the error.

    Raises:
        LopeError: no number, an unknown unit, or nothing at all.
    """
    match = _SIZE.fullmatch(text)
    factor = _UNITS.get(match[2].upper()) if match else None
    if match is None or factor is None or round(float(match[1]) * factor) == 0:
        raise LopeError(
            f"{what}: '{text}' is not a size of memory; write a number above 0 and a unit, for "
            "example 80GiB, 24GB or 1.5TiB."
        )
    return round(float(match[1]) * factor)


def peak_rss_bytes() -> int:
    """Return the largest resident set that this process has had."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10
    # Not getrusage: a child begins there with what its parent had when it was forked.
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def rss_bytes() -> int:
    """Return the resident set of this process as it is now."""
    return psutil.Process().memory_info().rss


def format_bytes(size: int) -> str:
    """Return ``"36.62 GiB"``, in the largest binary unit that the size reaches."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{size} B" if unit == "B" else f"{value:.2f} {unit}"
