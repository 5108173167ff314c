"""What a study's YAML file says: data, variants, evaluations, figures to hold against, claims."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from lope_dist.config.base import Section
from lope_dist.config.noise import DataNoiseConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


def _names_a_folder(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} also names folders: it may hold letters, digits and _ . + - and begins "
            "with a letter or digit"
        )
    return name


def _are_distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len({*seeds}) < len(seeds):
        raise ValueError(f"a seed is listed twice in {list(seeds)}, and would be the same run")
    return seeds


Seeds = Annotated[tuple[int, ...], AfterValidator(_are_distinct), Field(min_length=1)]
Name = Annotated[str, AfterValidator(_names_a_folder)]
Overrides = dict[str, Any]
"""Dotted key of a recipe -> value. `{AXIS}` in a text is the point of that axis."""


class CleaningConfig(Section):
    """What `lope clean` leaves of a file; the base model of the study's recipe scores the rows."""

    drop: float = Field(gt=0, lt=1)
    """Share of the rows that goes, the noisiest ones."""
    by: str | None = None
    """The score that decides. Default: that of `lope clean`."""


class FileConfig(Section):
    """A data file that the study makes: some rows of another one, with noise or without."""

    source: str
    """Where the rows are: `.json`, `.jsonl` or `.parquet`; or the name of another of `files`."""
    rows: tuple[int, int] | None = None
    """The first row and the one behind the last, counted from 0 among those that are short enough.
    Default: all."""
    max_characters: int | None = Field(default=None, ge=1)
    """Leave out rows whose texts are longer together."""
    noise: DataNoiseConfig | None = None
    """Noise put into them, as `lope corpus corrupt` does, which says in a column what was hit."""
    noise_seed: int = Field(default=614, ge=0)
    """What the noise is drawn from."""
    clean: CleaningConfig | None = None
    """Leave out the rows of the source that look noisy."""

    @model_validator(mode="after")
    def _is_cleaned_alone(self) -> FileConfig:
        others = sorted(self.model_fields_set & {"rows", "max_characters", "noise"})
        if self.clean is not None and others:
            raise ValueError(
                f"clean takes the source whole: give {', '.join(others)} to a file of its own, and "
                "name that as the source"
            )
        return self

    @model_validator(mode="after")
    def _rows_are_a_range(self) -> FileConfig:
        if self.rows is not None and not 0 <= self.rows[0] < self.rows[1]:
            raise ValueError(f"rows = {list(self.rows)} must be [first, end] with first < end")
        return self


class VariantConfig(Section):
    """One way to train, and the rows in which its runs are scored."""

    label: str | None = None
    """How tables call it. Default: its name."""
    recipe: str | None = None
    """Its recipe, in place of the study's."""
    overrides: Overrides = Field(default_factory=dict)
    """Applied behind the study's and the axes' overrides."""
    rows: tuple[str, ...] = Field(min_length=1)
    """What `--experts` of `lope eval` takes. The row `none` (the base model) is the same for all
    seeds and scored for the first alone."""
    choose_from: tuple[str, ...] = ()
    """The rows that `choose_on` chooses from."""
    search: dict[Name, Annotated[dict[Name, Overrides], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    """Settings that are chosen: name: value: overrides, applied last. At each point of the axes all
    combinations are trained with the first seed, and the one with the lowest loss on `choose_on`
    is trained with all seeds and compared. The study's `search_as` saves points their search."""
    seeds: Seeds | None = None
    """Those of the study's seeds with which it is trained. Default: all."""
    train_file: str | None = None
    """Which of `files` it trains on. Default: the study's `train_file`."""
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Axis: those of its points at which the variant is trained. Default: all."""


class SuiteConfig(Section):
    """Tasks that `lope eval` scores."""

    suite: str | None = None
    """A suite by name or file."""
    tasks: tuple[str, ...] = ()
    """lm-eval tasks or groups, in place of a suite."""
    include_path: str | None = None
    """Folder of task YAMLs to use instead of lm-eval's own."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Examples in the prompt. Default: the task's own number."""
    limit: int | None = Field(default=None, ge=1)
    """Documents of each task. Default: all."""
    batch_size: int = Field(default=8, ge=1)
    """Requests of a forward pass."""
    rows: tuple[str, ...] | None = None
    """Score only these of the variants' rows: ROW, or VARIANT/ROW. Default: all."""

    @model_validator(mode="after")
    def _is_a_suite_or_tasks(self) -> SuiteConfig:
        if (self.suite is None) == (not self.tasks):
            raise ValueError("one of suite and tasks must be given")
        return self


class EvaluateConfig(Section):
    """What each run is scored on."""

    losses: tuple[str, ...] = ()
    """Files whose loss per response token is taken: names of `files`, or paths."""
    losses_of_chosen: tuple[str, ...] = ()
    """Those of them that variants with `choose_from` take of the row `chosen` and of rows that a
    claim judges on it, which saves the rest of the rows. Default: none."""
    loss_batch_size: int = Field(default=8, ge=1)
    """Examples of a forward pass of these."""
    suites: dict[Name, SuiteConfig] = Field(default_factory=dict)
    """Suites by a name of their own."""


class ClaimConfig(Section):
    """A sentence that the runs can bear out or not."""

    claim: str
    """The sentence."""
    metric: str
    """As the report names it: `loss:FILE`, `acc:TASK`, `drift:STAGE` or one of `means`."""
    better: str
    """VARIANT/ROW. With axes the claim is judged at each point, or, as VARIANT@POINT/ROW, at one;
    points of several axes are joined by a comma. Of `drift` the row is a role of parameters."""
    than: str
    """The same for the other side."""
    direction: Literal["higher", "lower"] = "higher"
    """Which values of the metric are better."""


class RecoveredConfig(Section):
    """Which share of a noise's cost a variant recovers: (floor - variant) / (floor - ceiling).

    The floor is the best of the baselines at the noise, the ceiling the best of them without it;
    both are the same for all variants. A variant's row is `chosen`, or else its first one.
    """

    metric: str
    """`loss:FILE` on which all are judged."""
    axis: str
    """The axis whose points are the noises."""
    clean: str
    """Its point without noise."""
    baselines: tuple[str, ...] = Field(min_length=1)
    """Variants of which the floor and the ceiling are the best."""


class StudyConfig(Section):
    """A grid of runs: variants x points of the axes x seeds, and how they are compared."""

    title: str
    """Heading of the report."""
    about: str = ""
    """A paragraph below it: what is asked, and under which limits."""
    output_dir: str
    """Folder of data, runs and report; a relative path starts at the working directory."""
    recipe: str
    """Training configuration of the variants that name none; paths of recipes start at the
    study's file."""
    overrides: Overrides = Field(default_factory=dict)
    """Changes to every recipe: dotted key: value."""
    seeds: Seeds
    """Each cell is trained once with each."""
    files: dict[Name, FileConfig] = Field(default_factory=dict)
    """Data files that the study makes, in `output_dir/data`."""
    train_file: str | None = None
    """Which of `files` the variants train on. Default: the recipe's own data."""
    axes: dict[Name, dict[Name, Overrides]] = Field(default_factory=dict)
    """Settings to go through: axis: point: overrides. Every variant is trained at each."""
    variants: dict[Name, VariantConfig] = Field(min_length=1)
    """Ways to train, by name."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What each run is scored on."""
    choose_on: str | None = None
    """`loss:FILE` on which, for each seed, the row `chosen` of a variant is chosen: the one of its
    `choose_from` with the lowest loss. The settings of `search` are chosen on it too. No claim
    judges on it what it has chosen."""
    search_as: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Axis: point: the point whose settings it takes over, in place of a `search` of its own."""
    recovered: RecoveredConfig | None = None
    """What of a noise's cost each variant recovers."""
    means: dict[Name, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Metrics of one's own: the mean of several, by name."""
    columns: tuple[str, ...] = ()
    """Metrics that the tables show, in this order. Default: losses, accuracies and `means`; CSV and
    JSON have all."""
    baseline: str
    """VARIANT/ROW that the tables compare with; at each point of the axes with its own."""
    paper: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Published figures: metric: VARIANT/ROW, with axes VARIANT@POINT/ROW: value; accuracies in
    percent."""
    claims: dict[Name, ClaimConfig] = Field(default_factory=dict)
    """What is to be judged, by name, so that layers can add to each other's."""
