"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: What was looked at, and where.
        ok: Whether it is as a launch needs it.
        detail: What was found.
        fix: What to do about it; empty if all is well.
    """

    check: str
    ok: bool
    detail: str
    fix: str = ""


def good(check: str, detail: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, True, detail)


def bad(check: str, detail: str, fix: str) -> Finding:
    """Return a problem with its fix."""
    return Finding(check, False, detail, fix)
