"""A study's file, read and checked: names in it must fit each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lope_dist.config.load import load_section
from lope_dist.core.errors import LopeError, suggest
from lope_dist.core.roles import ADAPTER_ROLES
from lope_dist.core.shipped import shipped_config
from lope_dist.study.cells import Study, rows_of, split_side
from lope_dist.study.schema import StudyConfig
from lope_dist.study.search import with_settings
from lope_dist.study.suites import misfits_of_suites


def load_study(path: Path) -> Study:
    """Read a study's file, or the shipped one of that name; names in it must fit each other.

    Raises:
        LopeError: an unreadable file, an unknown key, a value that is impossible, or the name of
            a file, variant, point, row or metric that the study does not have.
    """
    if not path.is_file():
        path = shipped_config(path) or path
    study = Study(path, load_section(StudyConfig, path))
    for message in _misfits(study):
        raise LopeError(f"{path}: {message}")
    return with_settings(study)


def _misfits(study: Study) -> Iterator[str]:
    config = study.config
    train_files = {"train_file": config.train_file}
    train_files |= {f"variants.{n}.train_file": v.train_file for n, v in config.variants.items()}
    for key, train_file in train_files.items():
        if train_file is not None and train_file not in config.files:
            yield _unknown(key, train_file, config.files)
    for name, variant in config.variants.items():
        for seed in variant.seeds or ():
            if seed not in config.seeds:
                yield f"variants.{name}.seeds: {seed} is not one of seeds = {list(config.seeds)}."
        for axis, points in variant.where.items():
            if axis not in config.axes:
                yield _unknown(f"variants.{name}.where", axis, config.axes)
            for point in points:
                if point not in config.axes[axis]:
                    yield _unknown(f"variants.{name}.where.{axis}", point, config.axes[axis])
    yield from _misfits_of_overrides(study)
    yield from _misfits_of_choices(study)
    yield from _misfits_of_chosen_losses(study)
    yield from _misfits_of_search_as(study)
    yield from _misfits_of_losses(study)
    yield from misfits_of_suites(study)
    yield from _misfits_of_figures(study)
    yield from _misfits_of_claims(study)
    yield from _misfits_of_recovered(study)


def _misfits_of_recovered(study: Study) -> Iterator[str]:
    config, recovered = study.config, study.config.recovered
    if recovered is None:
        return
    losses = _losses(study)
    if recovered.metric not in losses:
        yield _unknown("recovered.metric", recovered.metric, losses)
    if recovered.metric == config.choose_on:
        yield (
            f"recovered.metric = '{recovered.metric}' is what choose_on chooses on; judge on the "
            "loss of other rows."
        )
    if [*config.axes] != [recovered.axis]:
        yield f"recovered.axis = '{recovered.axis}' must be the study's only axis."
    elif recovered.clean not in config.axes[recovered.axis]:
        yield _unknown("recovered.clean", recovered.clean, config.axes[recovered.axis])
    for name in recovered.baselines:
        if name not in config.variants:
            yield _unknown("recovered.baselines", name, config.variants)
        elif config.variants[name].where:
            yield f"recovered.baselines: '{name}' must be trained at every point of the axis."


def _misfits_of_overrides(study: Study) -> Iterator[str]:
    """Tell of keys that the study sets behind all overrides, which would have no effect."""
    config = study.config
    layers = [("overrides", config.overrides, config.train_file)]
    layers += [
        (f"axes.{axis}.{point}", overrides, config.train_file)
        for axis, points in config.axes.items()
        for point, overrides in points.items()
    ]
    layers += [
        (f"variants.{name}.overrides", variant.overrides, variant.train_file or config.train_file)
        for name, variant in config.variants.items()
    ]
    layers += [
        (f"variants.{name}.search.{key}.{value}", overrides, v.train_file or config.train_file)
        for name, v in config.variants.items()
        for key, values in v.search.items()
        for value, overrides in values.items()
    ]
    for name, overrides, train_file in layers:
        instead = {"seed": "seeds", "output_dir": "the study's output_dir"}
        instead |= dict.fromkeys(("train.tracking.project", "train.tracking.name"), "the study")
        if train_file is not None:
            instead["data.path"] = "train_file"
        for key in overrides.keys() & instead.keys():
            yield f"{name}: '{key}' would have no effect, {instead[key]} decides it; leave it out."


def _misfits_of_choices(study: Study) -> Iterator[str]:
    config = study.config
    losses = _losses(study)
    if config.choose_on is not None and config.choose_on not in losses:
        yield _unknown("choose_on", config.choose_on, losses)
    choosing = [n for n, v in config.variants.items() if v.choose_from or v.search]
    if config.choose_on is not None and not choosing:
        yield (
            "choose_on would have no effect: no variant has rows to choose from in choose_from, or "
            "settings in search."
        )
    for name, variant in config.variants.items():
        if variant.search and config.choose_on is None:
            yield f"variants.{name}.search needs choose_on, the loss to choose on."
        for row in variant.choose_from:
            if row not in variant.rows:
                yield _unknown(f"variants.{name}.choose_from", row, variant.rows)
        if variant.choose_from and config.choose_on is None:
            yield f"variants.{name}.choose_from needs choose_on, the loss to choose on."


def _misfits_of_chosen_losses(study: Study) -> Iterator[str]:
    """Tell of losses that are taken of no chosen row, or are asked for of other rows too."""
    config = study.config
    of_chosen = config.evaluate.losses_of_chosen
    metrics = {study.loss_metric(name) for name in of_chosen}
    for name in of_chosen:
        if name not in config.evaluate.losses:
            yield _unknown("evaluate.losses_of_chosen", name, config.evaluate.losses)
    if of_chosen and not any(variant.choose_from for variant in config.variants.values()):
        yield "evaluate.losses_of_chosen would have no effect: no variant has choose_from."
    if config.choose_on in metrics:
        yield f"evaluate.losses_of_chosen names the file of choose_on = '{config.choose_on}'."


def _misfits_of_search_as(study: Study) -> Iterator[str]:
    axes = study.config.axes
    if study.config.search_as and not any(v.search for v in study.config.variants.values()):
        yield "search_as would have no effect: no variant has settings in search."
    for axis, taken in study.config.search_as.items():
        if axis not in axes:
            yield _unknown("search_as", axis, axes)
            continue
        for at, source in taken.items():
            for point in (at, source):
                if point not in axes[axis]:
                    yield _unknown(f"search_as.{axis}", point, axes[axis])
            if source in taken:
                yield f"search_as.{axis}.{at} = '{source}' has no search of its own to take over."
    for name, group in study.groups.items():
        source = study.searched_as(group)
        if study.config.variants[group.variant].search and source.name not in study.groups:
            yield (
                f"search_as gives '{name}' the settings of '{source.name}', which is not trained; "
                f"add that point to variants.{group.variant}.where."
            )


def _losses(study: Study) -> set[str]:
    return {study.loss_metric(name) for name in study.config.evaluate.losses}


def _misfits_of_losses(study: Study) -> Iterator[str]:
    """Tell of files whose losses would be one metric, and written over each other."""
    names: dict[str, str] = {}
    for name in study.config.evaluate.losses:
        metric = study.loss_metric(name)
        if (other := names.setdefault(metric, name)) != name:
            yield f"evaluate.losses: '{other}' and '{name}' would both be {metric}; rename one."


def _misfits_of_metrics(study: Study) -> Iterator[str]:
    """Tell of losses and means that the study does not have; metrics of tasks are not known."""
    config, losses = study.config, _losses(study)
    named = [("columns", config.columns), ("paper", config.paper)]
    named += [(f"means.{name}", metrics) for name, metrics in config.means.items()]
    for key, metrics in named:
        for metric in metrics:
            if metric.startswith("loss:") and metric not in losses:
                yield _unknown(key, metric, losses)
            elif ":" not in metric and metric not in config.means:
                yield _unknown(key, metric, config.means)


def _misfits_of_figures(study: Study) -> Iterator[str]:
    config = study.config
    variants = {f"{name}/{row}" for name, v in config.variants.items() for row in rows_of(v)}
    if config.baseline not in variants:
        yield _unknown("baseline", config.baseline, variants)
    rows = {f"{name}/{row}" for name, variant in config.variants.items() for row in variant.rows}
    rows |= {row for variant in config.variants.values() for row in variant.rows}
    for name, suite in config.evaluate.suites.items():
        for row in suite.rows or ():
            if row not in rows:
                yield _unknown(f"evaluate.suites.{name}.rows", row, rows)
    yield from _misfits_of_metrics(study)
    sides = _sides_of_groups(study)
    for metric, figures in config.paper.items():
        for side in figures:
            if side not in sides:
                yield _unknown(f"paper.{metric}", side, sides)


def _misfits_of_claims(study: Study) -> Iterator[str]:
    config = study.config
    sides = _sides(study)
    losses = _losses(study)
    for name, claim in config.claims.items():
        kind = claim.metric.partition(":")[0]
        if kind == "loss" and claim.metric not in losses:
            yield _unknown(f"claims.{name}.metric", claim.metric, losses)
        elif claim.metric == kind and kind not in config.means:
            yield _unknown(f"claims.{name}.metric", claim.metric, config.means)
        groups = []
        for key in ("better", "than"):
            side = getattr(claim, key)
            group, row = split_side(side)
            groups.append(group)
            if kind == "drift" and group in {*study.groups, *config.variants}:
                if row not in ADAPTER_ROLES:
                    yield _unknown(f"claims.{name}.{key}", row, ADAPTER_ROLES)
            elif side not in sides:
                yield _unknown(f"claims.{name}.{key}", side, sides)
            elif study.judges_on_what_chose(side, claim.metric):
                yield (
                    f"claims.{name} judges '{side}' on {claim.metric}, which it was chosen on; "
                    "judge it on the loss of other rows."
                )
        if not study.points_of_claim(*groups):
            yield (
                f"claims.{name}: '{claim.better}' and '{claim.than}' are trained at no common "
                "point of the axes; name both sides as VARIANT@POINT/ROW, or neither."
            )


def _sides(study: Study) -> set[str]:
    """Return all that a claim can compare: GROUP/ROW, and VARIANT/ROW for each point."""
    return _sides_of_groups(study) | {
        f"{name}/{row}" for name, v in study.config.variants.items() for row in rows_of(v)
    }


def _sides_of_groups(study: Study) -> set[str]:
    """Return GROUP/ROW of all groups: with axes each is VARIANT@POINT."""
    variants = study.config.variants
    groups = study.groups.items()
    return {f"{name}/{row}" for name, g in groups for row in rows_of(variants[g.variant])}


def _unknown(key: str, given: str, allowed: Any) -> str:
    names = ", ".join(sorted(allowed)) or "none"
    return f"{key} = '{given}' is not one of: {names}.{suggest(given, allowed)}"
