"""The parts of an HTML page, from the template beside this file; all text in them is escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from lope_dist.core.files import write_atomic
from lope_dist.report.style import DARK, PAPER
from lope_dist.report.svg import color_variables, inline_svg, svg_file


def _breakable(text: str) -> Markup:
    """Return escaped text that may be broken after the marks in a name."""
    return Markup(re.sub(r"([:=_,/])(?=.{3})", r"\1<wbr>", str(escape(text))))


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def template(name: str) -> Template:
    """Return a template of this folder; what it is given is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": _breakable, "anchor": _anchor, "number": "{:,}".format}
    return environment.get_template(name)


_PARTS: Any = template("page.html").module


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
        return _figure(document, name, caption)


def page(title: str, intro: str, sections: dict[str, str]) -> str:
    """Return a whole page; sections without content are left out."""
    told = {name: Markup(content) for name, content in sections.items() if content}
    light, dark = color_variables()
    return _PARTS.page(title, Markup(intro), told, PAPER, DARK[PAPER], light, dark)


def facts(values: dict[str, str]) -> str:
    """Return short facts, each under its name."""
    return str(_PARTS.facts(values))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, is_text: bool = False) -> str:
    """Return a table whose rows begin with their name; numbers unless ``is_text``."""
    return str(_PARTS.table(head, rows, is_text))


def plots(figures: Sequence[str], *, are_broad: bool = False) -> str:
    """Return plots side by side, three or, if ``are_broad``, two; fewer where there is no room."""
    return str(_PARTS.plots(map(Markup, figures), are_broad))


def plot(figure: Figure, name: str, caption: str) -> str:
    """Return a figure as an element of the page, without a file of its own."""
    return _figure(svg_file(figure), name, caption)


def paragraph(text: str) -> str:
    """Return a paragraph of plain text."""
    return str(_PARTS.paragraph(text))


def heading(text: str) -> str:
    """Return a heading inside a section."""
    return str(_PARTS.heading(text))


def folded(title: str, content: str) -> str:
    """Return content that opens by a click."""
    return str(_PARTS.folded(title, Markup(content)))


def source(text: str) -> str:
    """Return preformatted text."""
    return str(_PARTS.source(text))


def absent(file: str, why: str) -> str:
    """Return the sentence for a file that is not there."""
    return str(_PARTS.absent(file, why))


def _figure(document: str, name: str, caption: str) -> str:
    svg = inline_svg(document, name, str(escape(caption)))
    return str(_PARTS.figure(Markup(svg), caption))
