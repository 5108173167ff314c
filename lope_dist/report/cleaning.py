"""The page of `lope clean`: what went, how well that agrees with the truth, and the worst rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment

from lope_dist.core.files import write_atomic

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Cleaned: {{ data }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f4; padding: .7rem; }
mark { background: #f7c59f; }
</style>
</head>
<body>
<h1>Cleaned: {{ data }}</h1>
<p>{{ num_kept | number }} of {{ num_rows | number }} rows stay. The others are in
{{ cleaned | dropped }}, each with its reason.
{%- if threshold is not none %} Rows above {{ "%.4g" | format(threshold) }} go.{% endif %}</p>
<table>
<tr><th>reason</th><th>rows dropped</th></tr>
{% for reason, count in dropped.items() -%}
<tr><td>{{ reason }}</td><td>{{ count | number }}</td></tr>
{% endfor -%}
</table>
{% if noisy_dropped is defined -%}
<h2>Against the truth</h2>
<p>Of {{ noisy_dropped.of_dropped | number }} dropped examples {{ noisy_dropped.both | number }} are
noisy; there are {{ noisy_dropped.of_noisy | number }} noisy ones.</p>
{% if detection.groups -%}
<table>
<tr><th>AUROC</th>
{%- for name, group in detection.groups.items() %}<th>{{ name }} ({{ group.num_noisy }})</th>
{%- endfor %}</tr>
{% for score in detection.groups.values() | map(attribute="auroc") | first -%}
<tr><td>{{ score }}</td>
{%- for group in detection.groups.values() %}<td>{{ "%.3f" | format(group.auroc[score]) }}</td>
{%- endfor %}</tr>
{% endfor -%}
</table>
{% endif -%}
{% endif -%}
<h2>The worst rows by {{ by }}</h2>
<p>Marked: the tenth of the tokens that {{ scorer }} finds hardest.</p>
{% for row in worst -%}
<h3>Row {{ row.row }}: {{ "%.4g" | format(row.score) }}</h3>
<pre>{% for text, is_hard in row.tokens %}
{%- if is_hard %}<mark>{{ text }}</mark>{% else %}{{ text }}{% endif %}
{%- endfor %}</pre>
{% endfor -%}
</body>
</html>
"""


def write_cleaning_page(summary: dict[str, Any], path: Path) -> None:
    """Write the page of a summary of `lope clean`, one file that needs no network."""
    environment = Environment(autoescape=True)
    environment.filters["number"] = "{:,}".format
    environment.filters["dropped"] = lambda out: Path(out).with_suffix(".dropped.jsonl").name
    write_atomic(path, environment.from_string(_PAGE).render(summary))


def cleaning_lines(summary: dict[str, Any]) -> list[str]:
    """Return what a console shows of a summary."""
    parts = ", ".join(f"{count:,} by {reason}" for reason, count in summary["dropped"].items())
    lines = [
        f"{summary['num_kept']:,} of {summary['num_rows']:,} rows stay; dropped: {parts or 'none'}"
    ]
    if "noisy_dropped" in summary:
        found = summary["noisy_dropped"]
        lines.append(
            f"{found['both']:,} of the {found['of_dropped']:,} dropped examples are noisy, of "
            f"{found['of_noisy']:,} noisy ones in all"
        )
    areas = (summary.get("detection", {}).get("groups") or {}).get("all", {}).get("auroc", {})
    if areas:
        best = sorted(areas.items(), key=lambda pair: -pair[1])
        lines.append("AUROC: " + ", ".join(f"{name} {area:.3f}" for name, area in best))
    return lines
