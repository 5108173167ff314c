"""`docs/reliability.md`, made from the results of a run of the matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_HEAD = """# Reliability

Each line below is a case of the fault matrix: real processes are harmed in one way, and what the
line states is asserted. `make faults` runs all of them and writes this page; `make test-all` runs a
subset. Hosts are Linux namespaces with addresses, process tables and ssh daemons of their own
([tests/faults/hosts.py](../tests/faults/hosts.py)); ranks run on CPU over gloo.

{survived} of {cases} cases survived{not_run}. {date}, {machine}, {versions}.
"""


def write_docs(table: dict[str, Any], num_untried: int, path: Path) -> None:
    """Write the page of a run's results; ``num_untried`` cases are in none of its tables."""
    versions = ", ".join(f"{name} {number}" for name, number in table["versions"].items())
    absent = table.get("not_run", 0)
    not_run = f"; {absent} could not be run on this machine" if absent else ""
    not_run += f"; {num_untried} were not tried" if num_untried else ""
    head = _HEAD.format(**table | {"versions": versions, "not_run": not_run})
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in table["matrix"]:
        groups.setdefault(entry["group"], []).append(entry)
    parts = [head, *(_group(name, entries) for name, entries in groups.items())]
    path.write_text("\n".join(parts))


def _group(name: str, entries: list[dict[str, Any]]) -> str:
    rows = [f"## {name}\n", "| case | what it shows | survived | seconds | figures |"]
    rows.append("| --- | --- | --- | ---: | --- |")
    for entry in entries:
        word = {True: "yes", False: f"**no**: {entry['error']}", None: f"not run: {entry['error']}"}
        figures = "; ".join(f"{key} {value}" for key, value in entry["figures"].items())
        cells = [entry["name"], entry["states"], word[entry["survived"]]]
        cells += [f"{entry['seconds']:.0f}", figures]
        rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
