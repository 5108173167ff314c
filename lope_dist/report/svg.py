"""A figure as SVG: a file of its own, or part of a page whose theme colours it."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from lope_dist.report.style import DARK

_SETTINGS: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "lope"}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_ZOOM = (0.75, 1.5)
"""CSS pixels of a page for each of a figure's own (1/96 inch), at least and at most: its text stays
readable on a phone, where a wide figure is scrolled."""


def svg_file(figure: Figure) -> str:
    """Return a figure as an SVG document; the same figure gives the same text."""
    buffer = io.StringIO()
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    return buffer.getvalue()


def inline_svg(document: str, name: str, label: str) -> str:
    """Return an SVG document as an element of an HTML page.

    Colours with a dark form become CSS variables (see `color_variables`), text takes the page's
    font, and ids get the prefix ``name``, for a page has many plots.
    """
    svg = document[document.index("<svg") :]
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    svg = re.sub(r"font: ([^']*)'[^;\"]*", r"font: \1var(--font)", svg)
    for color in DARK:
        svg = svg.replace(color, f"var(--{_variable(color)})")
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1]) * 96 / 72  # type: ignore[index]
    least, most = (round(zoom * width) for zoom in _ZOOM)
    style = f'style="min-width: {least}px; max-width: {most}px"'
    svg = re.sub(r'<svg width="[^"]*" height="[^"]*"', "<svg", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}" {style}', 1).rstrip()


def color_variables() -> tuple[str, str]:
    """Return the CSS variables of the plots' colours, on light paper and on dark."""
    light = (f"--{_variable(color)}: {color};" for color in DARK)
    dark = (f"--{_variable(color)}: {other};" for color, other in DARK.items())
    return " ".join(light), " ".join(dark)


def _variable(color: str) -> str:
    return f"plot-{color[1:]}"
