"""A study's file -> its cells: one validated training configuration each."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lope_dist.config.load import load_config
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.study.schema import Overrides, StudyConfig, VariantConfig

CHOSEN = "chosen"
"""A variant's row of `choose_from` that does best on `choose_on`, seed by seed."""


@dataclass(frozen=True)
class Group:
    """Cells that differ in their seed alone."""

    variant: str
    points: tuple[str, ...]
    """One of each axis, in the order of the axes."""
    setting: tuple[str, ...] = ()
    """Of a cell of a search: the values that it tries, in the order of `search`."""

    @property
    def name(self) -> str:
        """`VARIANT` or, with axes, `VARIANT@POINT,POINT`; of a search `VARIANT=VALUE,VALUE@...`."""
        tried = "=" + ",".join(self.setting) if self.setting else ""
        return self.variant + tried + ("@" + ",".join(self.points) if self.points else "")


@dataclass(frozen=True)
class Cell:
    """One run of a study: a group with one seed."""

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
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Group that was searched -> the values of its variant's `search` that were chosen."""

    @property
    def folder(self) -> Path:
        """The folder of all data, runs and reports."""
        return Path(self.config.output_dir)

    def data_file(self, name: str) -> Path:
        """Return the path of one of `files`, or of another file that is named by its path."""
        made = self.folder / "data" / f"{name}.jsonl"
        return made if name in self.config.files else Path(name)

    def loss_metric(self, name: str) -> str:
        """Return the metric that the loss on one of these files is."""
        return f"loss:{self.data_file(name).stem}"

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

        A group whose setting is still searched has none.

        Raises:
            LopeError: a recipe that is absent, or a configuration that is not valid.
        """
        return [
            self._cell(group, seed)
            for seed in self.config.seeds
            for group in self.groups.values()
            if seed in self._seeds(group) and group.name not in self.searched
        ]

    @cached_property
    def searched(self) -> list[str]:
        """Groups whose setting is not known yet."""
        return [
            name
            for name, group in self.groups.items()
            if self.config.variants[group.variant].search
            and self.searched_as(group).name not in self.settings
        ]

    @cached_property
    def tries(self) -> list[Cell]:
        """The cells of all searches: each combination of settings, with the group's first seed.

        Raises:
            LopeError: as `cells`.
        """
        return [
            self._cell(Group(group.variant, group.points, setting), self._seeds(group)[0])
            for group in self.groups.values()
            if (search := self.config.variants[group.variant].search)
            and self.searched_as(group) == group
            for setting in itertools.product(*search.values())
        ]

    @property
    def names(self) -> list[str]:
        """Names of all cells, also of those whose setting is not known yet."""
        return [cell.name for cell in self.tries] + self.names_of(self.groups)

    def names_of(self, groups: Iterable[str]) -> list[str]:
        """Return the names of the cells of groups, whether their setting is known or not."""
        of_groups = [self.groups[name] for name in groups]
        return [
            f"{group.name}/seed-{seed}"
            for seed in self.config.seeds
            for group in of_groups
            if seed in self._seeds(group)
        ]

    def searched_as(self, group: Group) -> Group:
        """Return the group whose search decides on a group's settings; most decide on their own."""
        points = zip(self.config.axes, group.points, strict=True)
        taken = tuple(self.config.search_as.get(axis, {}).get(at, at) for axis, at in points)
        return replace(group, points=taken)

    def points_of_claim(self, better: str, than: str) -> list[str]:
        """Return the points, as `@POINT,...`, at which two sides can be compared.

        Args:
            better: VARIANT, or GROUP at one point.
            than: As ``better``. Of both sides or of neither the point is named.

        Returns:
            The points; of sides that name theirs, and without axes, one empty string.
        """
        if {better, than} <= self.groups.keys():
            return [""]
        suffixes = ["@" + ",".join(at) for at in itertools.product(*self.config.axes.values())]
        return [at for at in suffixes if {better + at, than + at} <= self.groups.keys()]

    def judges_on_what_chose(self, side: str, metric: str) -> bool:
        """Tell whether a side's setting or row was chosen on a metric, which would flatter it."""
        group, row = split_side(side)
        variant = self.config.variants[group.partition("@")[0]]
        metrics = (metric, *self.config.means.get(metric, ()))
        return self.config.choose_on in metrics and bool(variant.search or row == CHOSEN)

    def judged_rows(self, group: Group, metric: str) -> list[str]:
        """Return the rows of a group, other than `chosen`, that claims judge on a metric."""
        sides = [
            split_side(side)
            for claim in self.config.claims.values()
            if claim.metric == metric
            for side in (claim.better, claim.than)
        ]
        names = (group.variant, group.name)
        return list(dict.fromkeys(row for of, row in sides if of in names and row != CHOSEN))

    def recipe(self) -> RunConfig:
        """Return the study's recipe with the overrides that all variants have.

        Raises:
            LopeError: it is absent, or not valid.
        """
        return self._load(self.config.recipe, self.config.overrides, {})

    def _load(self, recipe: str, overrides: Overrides, points: Mapping[str, str]) -> RunConfig:
        values = [
            f"{k}={_at_points(json.dumps(v, ensure_ascii=False), points)}"
            for k, v in overrides.items()
        ]
        return load_config(self.path.parent / recipe, values)

    def _seeds(self, group: Group) -> tuple[int, ...]:
        seeds = self.config.variants[group.variant].seeds
        return self.config.seeds if seeds is None else seeds

    def _cell(self, group: Group, seed: int) -> Cell:
        study, variant = self.config, self.config.variants[group.variant]
        setting = group.setting or self.settings.get(self.searched_as(group).name, ())
        run = f"{Group(group.variant, group.points, setting).name}/seed-{seed}"
        last: dict[str, Any] = {
            "seed": seed,
            "output_dir": str(self.folder / "runs" / run),
            "train.tracking.project": self.folder.name,
            "train.tracking.name": run,
        }
        if (train_file := variant.train_file or study.train_file) is not None:
            last["data.path"] = str(self.data_file(train_file))
        points = [study.axes[axis][p] for axis, p in zip(study.axes, group.points, strict=True)]
        values = zip(variant.search.values(), setting, strict=True) if setting else ()
        tried = [values_of[value] for values_of, value in values]
        overrides = _layered([study.overrides, *points, variant.overrides, *tried, last])
        point_of = dict(zip(study.axes, group.points, strict=True))
        try:
            config = self._load(variant.recipe or study.recipe, overrides, point_of)
        except LopeError as error:
            raise LopeError(f"{self.path}, {group.name}: {error}") from None
        is_first = seed == self._seeds(group)[0]
        rows = tuple(row for row in variant.rows if is_first or row not in ("none", "base"))
        return Cell(group, seed, config, rows)


def _layered(layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return all overrides in order; a key takes away what earlier ones set at or below it."""
    overrides: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            overrides = {k: v for k, v in overrides.items() if not f"{k}.".startswith(f"{key}.")}
            overrides[key] = value
    return overrides


def _at_points(value: str, points: Mapping[str, str]) -> str:
    """Return an override, as JSON, with the points in place of `{AXIS}`; `{{AXIS}}` is Jinja's."""
    for axis, point in points.items():
        value = re.sub(re.escape(f"{{{axis}}}") + "(?!})", point, value)
    return value


def split_side(side: str) -> tuple[str, str]:
    """Return the group and the row that `VARIANT[@POINT,...]/ROW` names."""
    group, _, row = side.partition("/")
    return group, row


def answer_of(variant: VariantConfig) -> str:
    """Return the row that stands for a variant: `chosen`, or the first one."""
    return CHOSEN if variant.choose_from else variant.rows[0]


def rows_of(variant: VariantConfig) -> tuple[str, ...]:
    """Return a variant's rows as a report has them."""
    return (*variant.rows, CHOSEN) if variant.choose_from else variant.rows


def _is_trained_at(variant: VariantConfig, points: dict[str, str]) -> bool:
    return all(points[axis] in allowed for axis, allowed in variant.where.items())
