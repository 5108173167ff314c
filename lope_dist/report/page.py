"""The parts of an HTML page: its style, tables, plots; everything in it is escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from lope_dist.core.files import write_atomic
from lope_dist.report.style import DARK, PAPER
from lope_dist.report.svg import color_variables, inline_svg, svg_file

_LIGHT, _DARK = color_variables()
_STYLE = f"""
:root {{ color-scheme: light dark; --ink: #1f2933; --muted: #5c6976; --line: #dde2e7;
  --page: #f6f7f9; --paper: {PAPER}; --band: #f1f4f6; --accent: #0b5fa5;
  --font: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e4e7eb; --muted: #9aa5b1; --line: #313b45; --page: #13171b;
    --paper: {DARK[PAPER]}; --band: #232b32; --accent: #7fb8e6; {_DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 var(--font); }}
main {{ max-width: 1020px; margin: 0 auto; padding: 28px 16px 64px; }}
h1 {{ font-size: 25px; margin: 0 0 4px; overflow-wrap: anywhere; }}
h2 {{ font-size: 18px; margin: 0 0 6px; }}
h3 {{ font-size: 15px; margin: 22px 0 4px; overflow-wrap: anywhere; }}
p {{ color: var(--muted); margin: 4px 0 10px; max-width: 76ch; }}
section {{ background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 18px 20px; margin: 18px 0; }}
nav {{ display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 10px 0 0; }}
a {{ color: var(--accent); text-decoration: none; }}
a:hover {{ text-decoration: underline; }}
.absent {{ font-style: italic; }}
.facts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(135px, 1fr));
  gap: 12px 18px; margin: 0; }}
.facts dt {{ color: var(--muted); font-size: 13px; }}
.facts dd {{ margin: 0; font-weight: 600; overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; max-width: 100%; margin: 8px 0; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 5px 12px; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }}
thead th {{ color: var(--muted); font-weight: 600; font-size: 13px; white-space: normal;
  vertical-align: bottom; min-width: 72px; max-width: 150px; }}
tr > :first-child {{ text-align: left; padding-left: 2px; position: sticky; left: 0;
  background: var(--paper); }}
table.text :is(td, th) {{ text-align: left; }}
table.text td {{ white-space: normal; overflow-wrap: anywhere; }}
tbody th {{ font-weight: 600; white-space: normal; min-width: 9em; }}
tbody tr:last-child > * {{ border-bottom: 0; }}
tbody tr:hover > * {{ background: var(--band); }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 290px), 1fr));
  gap: 14px 18px; margin: 8px 0; }}
.plots.broad {{ grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); }}
figure {{ margin: 0; min-width: 0; }}
figcaption {{ font-size: 13px; color: var(--muted); margin-bottom: 2px; }}
svg {{ display: block; width: 100%; height: auto; }}
svg image {{ image-rendering: pixelated; }}
details {{ margin: 8px 0; }}
summary {{ cursor: pointer; color: var(--accent); }}
pre {{ background: var(--band); padding: 12px 14px; border-radius: 8px; overflow-x: auto;
  font: 13px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; margin: 8px 0; }}
@media (max-width: 520px) {{ main {{ padding: 16px 8px 40px; }} section {{ padding: 14px 12px; }}
  th, td {{ padding: 5px 8px; }} tbody th {{ white-space: normal; }} }}
@media print {{ body {{ background: none; }} section {{ break-inside: avoid; border: 0; }} }}
"""


class Plots:
    """The plots of a page: each also goes to a file ``<name>.svg`` of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._names = folder, set[str]()
        for old in folder.glob("*.svg"):
            old.unlink()  # of a stage that was named otherwise, say

    def add(self, figure: Figure, name: str, caption: str) -> str:
        """Write a figure and return it as an element of the page."""
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
        while name in self._names:  # names that differ in other marks alone
            name += "-"
        self._names.add(name)
        document = svg_file(figure)
        write_atomic(self._folder / f"{name}.svg", document)
        return (
            f"<figure><figcaption>{escape(caption)}</figcaption>"
            f"{inline_svg(document, name, escape(caption, quote=True))}</figure>"
        )


def page(title: str, intro: str, sections: dict[str, str]) -> str:
    """Return a whole page; sections without content are left out."""
    told = {name: content for name, content in sections.items() if content}
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in told)
    body = "".join(
        f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2>\n{content}</section>\n'
        for name, content in told.items()
    )
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>\n{intro}<nav>{links}</nav>\n{body}</main></body>"
        "</html>\n"
    )


def facts(values: dict[str, str]) -> str:
    """Return short facts, each under its name."""
    entries = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in values.items())
    return f'<dl class="facts">{"".join(entries)}</dl>\n'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, is_text: bool = False) -> str:
    """Return a table whose rows begin with their name; numbers unless ``is_text``."""
    header = "".join(f'<th scope="col">{_breakable(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>\n"
        for name, *cells in rows
    )
    kind = ' class="text"' if is_text else ""
    return (
        f'<div class="wide"><table{kind}><thead><tr>{header}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def plots(figures: Sequence[str], *, are_broad: bool = False) -> str:
    """Return plots side by side, three or, if ``are_broad``, two; fewer where there is no room."""
    kind = "plots broad" if are_broad else "plots"
    return f'<div class="{kind}">{"".join(figures)}</div>\n'


def paragraph(text: str) -> str:
    """Return a paragraph of plain text."""
    return f"<p>{escape(text)}</p>\n"


def heading(text: str) -> str:
    """Return a heading inside a section."""
    return f"<h3>{escape(text)}</h3>\n"


def folded(title: str, content: str) -> str:
    """Return content that opens by a click."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>\n"


def source(text: str) -> str:
    """Return preformatted text."""
    return f"<pre>{escape(text)}</pre>"


def absent(file: str, why: str) -> str:
    """Return the sentence for a file that is not there."""
    return f'<p class="absent">No {escape(file)}: {escape(why)}.</p>\n'


def _breakable(text: str) -> str:
    """Return escaped text that may be broken after the marks in a name."""
    return re.sub(r"([:=_,/])", r"\1<wbr>", escape(text))


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())
