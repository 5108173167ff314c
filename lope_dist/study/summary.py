"""A study's figures as one JSON-ready tree; tables, plots and pages are made from it alone."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict
from typing import Any

from lope_dist.core.metrics import is_share
from lope_dist.study.cells import Study, rows_of, split_side
from lope_dist.study.changes import changes_of, diverged
from lope_dist.study.claims import judge
from lope_dist.study.compare import compare
from lope_dist.study.observe import Observations, curves, observe
from lope_dist.study.recovered import recovered
from lope_dist.study.search import all_diverged, tries_of

Summary = dict[str, Any]

_MEASURED_IN_TRAINING = ("drift:", "poison_weight:")


def summarize(study: Study) -> Summary:
    """Read the runs and return what the report shows.

    ``rows``: of each group and row its ``figures``: metric -> mean and standard deviation over
    seeds, values and files by seed, the published figure, and the difference to the baseline.
    ``chosen``: group -> seed -> the row that `chosen` is there. ``claims``: see `judge`.
    ``drift``: of each group, stage and role the curve of the first seed.

    Raises:
        LopeError: a file that is not valid JSON, or losses of different documents.
    """
    observations = observe(study)
    config = study.config
    return {
        "title": config.title,
        "about": config.about,
        "study": str(study.path),
        "seeds": list(config.seeds),
        "baseline": config.baseline,
        "axes": {name: list(points) for name, points in config.axes.items()},
        "shares": [metric for metric in observations.metrics() if _is_share(observations, metric)],
        "columns": list(config.columns) or _columns(observations),
        "missing": _missing(observations),
        "settings": _settings(study),
        "search_as": config.search_as,
        "rows": [_row(observations, group, row) for group, row in _asked(observations)],
        "choose_on": config.choose_on,
        "chosen": {
            group: {str(seed): row for seed, row in rows.items()}
            for group, rows in observations.chosen.items()
        },
        "claims": judge(observations),
        "recovered": recovered(observations),
        "cost": _cost(observations),
        "drift": _drift(observations),
    }


def _missing(observations: Observations) -> list[str]:
    """Return the groups and cells without figures, and why if that is not that they did not run."""
    study, failed = observations.study, all_diverged(observations.study)
    searched = [f"{n} ({failed.get(n, 'its setting is not chosen yet')})" for n in study.searched]
    tries = [c for group, of in tries_of(study).items() if group in study.searched for c in of]
    changed = observations.changed | {c.name: x for c in tries if (x := changes_of(c))}
    cells = [c.name for c in study.cells if c.name not in observations.trained | changed.keys()]
    run_otherwise = [f"{n} (was run otherwise: {'; '.join(x)})" for n, x in changed.items()]
    return [*searched, *cells, *run_otherwise]


def _asked(observations: Observations) -> list[tuple[str, str]]:
    """Return the known rows in the study's order, those of roles and marks left out."""
    study = observations.study
    observed = set(observations.rows())
    asked = [
        (name, row)
        for name, group in study.groups.items()
        for row in rows_of(study.config.variants[group.variant])
    ]
    return [pair for pair in asked if pair in observed]


def _columns(observations: Observations) -> list[str]:
    shown = [m for m in observations.metrics() if not m.startswith(_MEASURED_IN_TRAINING)]
    means = (m for m in observations.study.config.means if m in observations.metrics())
    return list(dict.fromkeys((*shown, *means)))


def _is_share(observations: Observations, metric: str) -> bool:
    """Tell whether a metric is shown in percent."""
    first = observations.study.config.means.get(metric, (metric,))[0]
    return is_share(first.partition(":")[0], observations.values(metric))


def _row(observations: Observations, name: str, row: str) -> dict[str, Any]:
    study = observations.study
    group = study.groups[name]
    variant = study.config.variants[group.variant]
    figures = {
        metric: _figure(observations, name, row, metric)
        for metric in observations.metrics()
        if observations.series(name, row, metric)
    }
    return {
        "group": name,
        "variant": group.variant,
        "points": list(group.points),
        "row": row,
        "label": variant.label or group.variant,
        "figures": figures,
    }


def _figure(observations: Observations, name: str, row: str, metric: str) -> dict[str, Any]:
    study = observations.study
    series = observations.series(name, row, metric)
    values = [seen.value for seen in series.values()]
    errors = [seen.stderr for seen in series.values() if seen.stderr is not None]
    group, baseline_row = split_side(study.config.baseline)
    points = study.groups[name].points
    at = group + ("@" + ",".join(points) if points else "")
    effect = None
    if (at, baseline_row) != (name, row):
        effect = compare(series, observations.series(at, baseline_row, metric))
    return {
        "mean": math.fsum(values) / len(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "stderr": math.fsum(errors) / len(errors) if errors else None,
        "values": {str(seed): seen.value for seed, seen in series.items()},
        "paper": study.config.paper.get(metric, {}).get(f"{name}/{row}"),
        "against_baseline": None if effect is None else asdict(effect),
        "sources": {str(seed): seen.source for seed, seen in series.items()},
    }


def _settings(study: Study) -> list[dict[str, Any]]:
    """Return of each group that was searched what was chosen, and whether it is at an end."""
    tries = tries_of(study)
    return [
        {
            "group": name,
            "name": key,
            "value": value,
            "tried": list(values),
            "is_at_end": len(values) > 2 and value in {*list(values)[:1], *list(values)[-1:]},
            "diverged": [",".join(c.group.setting) for c in tries[name] if diverged(c)],
        }
        for name, setting in study.settings.items()
        for (key, values), value in zip(
            study.config.variants[study.groups[name].variant].search.items(), setting, strict=True
        )
    ]


def _cost(observations: Observations) -> dict[str, dict[str, Any]]:
    """Return group -> seconds, tokens and largest memory of a run, the mean over seeds."""
    costs = {}
    for group, seeds in observations.seconds.items():
        runs = [[s for s in cost.values() if isinstance(s, dict)] for cost in seeds.values()]
        costs[group] = {
            "seconds": statistics.mean(sum(s.get("seconds", 0) for s in run) for run in runs),
            "tokens": statistics.mean(sum(s.get("tokens", 0) for s in run) for run in runs),
            "peak_memory_bytes": max(
                (s.get("peak_memory_bytes") or 0 for run in runs for s in run), default=0
            ),
        }
    return costs


def _drift(observations: Observations) -> list[dict[str, Any]]:
    study = observations.study
    cells = [cell for cell in study.cells if cell.name in observations.trained]
    first = {cell.group.name: cell for cell in reversed(cells)}  # cells are seed by seed
    return [
        {"group": name, "stage": stage, "role": role, "points": points}
        for name in study.groups
        if name in first
        for (stage, role), points in curves(first[name].folder).items()
    ]
