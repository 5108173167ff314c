"""A study's file -> its cells: one validated training configuration each."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lope_dist.config.load import load_config, load_section
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError, suggest
from lope_dist.study.schema import StudyConfig, VariantConfig


@dataclass(frozen=True)
class Group:
    """Cells that differ in their seed alone."""

    variant: str
    points: tuple[str, ...]
    """One of each axis, in the order of the axes."""

    @property
    def name(self) -> str:
        """`VARIANT` or, with axes, `VARIANT@POINT,POINT`."""
        return self.variant + ("@" + ",".join(self.points) if self.points else "")


@dataclass(frozen=True)
class Cell:
    """One run."""

    group: Group
    seed: int
    config: RunConfig
    rows: tuple[str, ...]
    """What `--experts` is asked for."""

    @property
    def name(self) -> str:
        """`GROUP/seed-N`."""
        return f"{self.group.name}/seed-{self.seed}"

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.config.output_dir)


@dataclass(frozen=True)
class Study:
    """A study as its file describes it."""

    path: Path
    config: StudyConfig

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path(self.config.output_dir)

    def data_file(self, name: str) -> Path:
        """Return the path of one of `files`, or of another file that is named by its path."""
        made = self.folder / "data" / f"{name}.jsonl"
        return made if name in self.config.files else Path(name)

    @cached_property
    def groups(self) -> dict[str, Group]:
        """All groups by name: variant after variant, the points of the last axis going fastest."""
        axes = self.config.axes
        return {
            group.name: group
            for name, variant in self.config.variants.items()
            for points in itertools.product(*axes.values())
            if _is_trained_at(variant, dict(zip(axes, points, strict=True)))
            for group in [Group(name, points)]
        }

    @cached_property
    def cells(self) -> list[Cell]:
        """All cells, every group with the first seed before any with the second.

        Raises:
            LopeError: a recipe that is absent, or a configuration that is not valid.
        """
        return [
            self._cell(group, seed)
            for seed in self.config.seeds
            for group in self.groups.values()
            if seed in self._seeds(group)
        ]

    def _seeds(self, group: Group) -> tuple[int, ...]:
        own = self.config.variants[group.variant].seeds
        return self.config.seeds if own is None else own

    def _cell(self, group: Group, seed: int) -> Cell:
        study, variant = self.config, self.config.variants[group.variant]
        folder = self.folder / "runs" / group.name / f"seed-{seed}"
        overrides: dict[str, Any] = dict(study.overrides)
        for points, point in zip(study.axes.values(), group.points, strict=True):
            overrides |= points[point]
        overrides |= variant.overrides
        if study.train_file is not None:
            overrides["data.path"] = str(self.data_file(study.train_file))
        overrides |= {"seed": seed, "output_dir": str(folder)}
        recipe = self.path.parent / (variant.recipe or study.recipe)
        try:
            config = load_config(recipe, [f"{k}={json.dumps(v)}" for k, v in overrides.items()])
        except LopeError as error:
            raise LopeError(f"{self.path}, {group.name}: {error}") from None
        is_first = seed == self._seeds(group)[0]
        rows = tuple(row for row in variant.rows if is_first or row not in ("none", "base"))
        return Cell(group, seed, config, rows)


def load_study(path: Path) -> Study:
    """Read a study's file; names in it must fit each other.

    Raises:
        LopeError: an unreadable file, an unknown key, a value that is impossible, or the name of
            a file, variant, point, row or metric that the study does not have.
    """
    study = Study(path, load_section(StudyConfig, path))
    for message in _misfits(study):
        raise LopeError(f"{path}: {message}")
    return study


def split_side(side: str) -> tuple[str, str]:
    """Return the group and the row that `VARIANT[@POINT,...]/ROW` names."""
    group, _, row = side.partition("/")
    return group, row


def _is_trained_at(variant: VariantConfig, points: dict[str, str]) -> bool:
    return all(points[axis] in allowed for axis, allowed in variant.where.items())


def _misfits(study: Study) -> Iterator[str]:
    config = study.config
    if config.train_file is not None and config.train_file not in config.files:
        yield _unknown("train_file", config.train_file, config.files)
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
    yield from _misfits_of_figures(study)


def _misfits_of_figures(study: Study) -> Iterator[str]:
    config = study.config
    variants = {f"{name}/{row}" for name, v in config.variants.items() for row in v.rows}
    if config.baseline not in variants:
        yield _unknown("baseline", config.baseline, variants)
    rows = {row for variant in config.variants.values() for row in variant.rows}
    for name, suite in config.evaluate.suites.items():
        for row in suite.rows or ():
            if row not in rows:
                yield _unknown(f"evaluate.suites.{name}.rows", row, rows)
    sides = {f"{name}/{row}" for name, g in study.groups.items() for row in _rows(study, g.variant)}
    for metric, figures in config.paper.items():
        for side in figures:
            if side not in sides:
                yield _unknown(f"paper.{metric}", side, sides)
    losses = {f"loss:{Path(name).stem}" for name in config.evaluate.losses}
    for name, claim in config.claims.items():
        kind = claim.metric.partition(":")[0]
        if kind == "loss" and claim.metric not in losses:
            yield _unknown(f"claims.{name}.metric", claim.metric, losses)
        elif claim.metric == kind and kind not in config.means:
            yield _unknown(f"claims.{name}.metric", claim.metric, config.means)
        for key in ("better", "than"):
            side = getattr(claim, key)
            group, _ = split_side(side)
            if kind == "drift" and group in {*study.groups, *config.variants}:
                continue  # its row is a role
            if side not in sides | variants:
                yield _unknown(f"claims.{name}.{key}", side, sides | variants)


def _rows(study: Study, variant: str) -> tuple[str, ...]:
    return study.config.variants[variant].rows


def _unknown(key: str, given: str, allowed: Any) -> str:
    names = ", ".join(sorted(allowed)) or "none"
    return f"{key} = '{given}' is not one of: {names}.{suggest(given, allowed)}"
