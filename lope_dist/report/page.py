"""The parts of an HTML page, from the template beside this file; all text in them is escaped."""

from __future__ import annotations

import re
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
absent, facts, folded, heading = _PARTS.absent, _PARTS.facts, _PARTS.folded, _PARTS.heading
paragraph, plots, source, table = _PARTS.paragraph, _PARTS.plots, _PARTS.source, _PARTS.table
"""The elements of `page.html`, each a `Markup`; what is none yet is escaped."""


class Plots:
    """The plots of a page: each also goes to a file ``<name>.svg`` of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._names = folder, set[str]()
        for old in folder.glob("*.svg"):
            old.unlink()  # of a stage that was named otherwise, say

    def add(self, figure: Figure, name: str, caption: str) -> Markup:
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
    shown = {name: content for name, content in sections.items() if content}
    light, dark = color_variables()
    return _PARTS.page(title, intro, shown, PAPER, DARK[PAPER], light, dark)


def plot(figure: Figure, name: str, caption: str) -> Markup:
    """Return a figure as an element of the page, without a file of its own."""
    return _figure(svg_file(figure), name, caption)


def _figure(document: str, name: str, caption: str) -> Markup:
    svg = inline_svg(document, name, str(escape(caption)))
    return _PARTS.figure(Markup(svg), caption)
