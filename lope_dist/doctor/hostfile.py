"""DeepSpeed's list of hosts: `name slots=N`, a line each."""

from __future__ import annotations

import re
from pathlib import Path

from lope_dist.doctor.finding import Finding, bad, good

_LINE = re.compile(r"^(?P<name>\S+)\s+slots=(?P<slots>\d+)\s*$")
_NAME = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9.:_-]*[A-Za-z0-9])?$")


def read_hostfile(path: Path) -> tuple[dict[str, int], list[Finding]]:
    """Return slots by host in order, and what is wrong with the file, line by line.

    Empty lines and lines that start with `#` say nothing.
    """
    check = f"hostfile {path}"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        return {}, [bad(check, f"cannot be read ({reason})", "give the path of a hostfile")]
    hosts: dict[str, int] = {}
    findings: list[Finding] = []
    where: dict[str, int] = {}
    for number, raw in enumerate(lines, start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        problem = _problem(line, where)
        if problem:
            findings.append(bad(f"{check}, line {number}", f"{problem[0]}: '{line}'", problem[1]))
            continue
        match = _LINE.match(line)
        assert match is not None
        hosts[match["name"]] = int(match["slots"])
        where[match["name"]] = number
    if not hosts and not findings:
        findings.append(bad(check, "names no host", "add a line such as: node1 slots=8"))
    if not findings:
        total = sum(hosts.values())
        findings.append(good(check, f"{len(hosts)} hosts, {total} ranks"))
    return hosts, findings


def _problem(line: str, where: dict[str, int]) -> tuple[str, str] | None:
    """Return what is wrong with a line and its fix, or None."""
    if " #" in line:
        return "a comment behind a host, which DeepSpeed takes for a part of it", (
            "put the comment on a line of its own"
        )
    match = _LINE.match(line)
    if match is None:
        return "not of the form 'name slots=N'", "write it as: node1 slots=8"
    if not _NAME.match(match["name"]):
        return "no host's name", "give a name or an address, without user or port"
    if int(match["slots"]) < 1:
        return "no slots", "give the number of devices, or remove the line"
    if match["name"] in where:
        return f"the host of line {where[match['name']]} again", (
            "give each host one line with all of its slots"
        )
    return None
