"""What `lope corpus show` and `build` print."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_DELETED, _INSERTED = "red strike", "green bold"


def _example_text(example: dict[str, Any]) -> tuple[Text, Text]:
    """Return an example clean and noisy; what differs is in marks and in colour."""
    clean, noisy = Text(), Text()
    if "changes" not in example:
        return Text(example["clean"]), noisy
    for run in example["changes"]:
        if run["kind"] == "equal":
            clean.append(run["before"])
            noisy.append(run["after"])
            continue
        if run["before"]:
            clean.append(f"[-{run['before']}-]", _DELETED)
        if run["after"]:
            noisy.append(f"{{+{run['after']}+}}", _INSERTED)
    return clean, noisy


def print_examples(examples: list[dict[str, Any]]) -> None:
    """Print examples clean beside noisy, as `examples_of` returns them."""
    console = Console()
    for example in examples:
        cut = ", cut" if example["was_cut"] else ""
        table = Table(
            title=f"Example {example['example_id']}{cut}",
            title_justify="left",
            show_lines=True,
            expand=True,
        )
        columns = _example_text(example)
        table.add_column(f"clean {_hits(example['clean_hits'])}", ratio=1, overflow="fold")
        if "view" not in example:
            table.add_row(columns[0])
        else:
            title = f"{example['view']} {_hits(example['noisy_hits'])}"
            table.add_column(title, ratio=1, overflow="fold")
            table.add_row(*columns)
        console.print(table)


def print_counts(manifest: dict[str, Any]) -> None:
    """Print what the views of a corpus hold."""
    table = Table(title=f"Corpus {manifest['hash'][:16]}", title_justify="left")
    for name in ("view", "examples", "tokens", "target tokens", "cut", "noise hits"):
        table.add_column(name, justify="left" if name in ("view", "noise hits") else "right")
    for view, counts in manifest["counts"].items():
        numbers = [f"{counts[k]:,}" for k in ("examples", "tokens", "target_tokens", "cut")]
        table.add_row(view, *numbers, _hits(counts["hits"]))
    Console().print(table)


def _hits(hits: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in hits.items())
