"""A suite: what `lope eval --suite` scores (files of `eval/suites`)."""

from __future__ import annotations

from pydantic import Field, field_validator

from lope_dist.config.base import Section
from lope_dist.config.noise import TextNoiseConfig


class SuiteTask(Section):
    """One entry of a suite: a task or a whole group."""

    task: str
    """Name of an lm-eval task, group or tag."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Examples in the prompt; default: what the task's definition says."""
    limit: float | None = Field(default=None, gt=0)
    """Documents of each task, or a share below 1; default: the suite's."""
    question: tuple[str, ...] = ()
    """Columns of a document that hold its question, never the choices. They are what a noisy suite
    corrupts; a task without them is left out of it."""


class SuiteGroup(Section):
    """A mean over tasks of the suite, with a line of its own in the table."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Names of tasks; members of the suite's groups too."""
    metric: str = "acc"
    """What is averaged."""
    weight_by_size: bool = True
    """Weigh tasks by their number of documents, not all alike."""


class SuiteNoise(Section):
    """Corrupted questions, the same for every model, row and number of ranks."""

    text: TextNoiseConfig = TextNoiseConfig()
    """Rate and operations."""
    seed: int = Field(default=614, ge=0)
    """The noise is a function of the seed, the task's name and the document's number."""
    suffix: str = Field(default="_noisy", pattern=r"^\w+$")
    """Put behind the names of tasks and groups."""

    @field_validator("text")
    @classmethod
    def _questions_only(cls, text: TextNoiseConfig) -> TextNoiseConfig:
        if "fields" in text.model_fields_set or text.responses.rate:
            raise ValueError(
                "fields and responses are for training data; here the tasks' 'question' says what "
                "is corrupted, and answers never are"
            )
        return text


class SuiteConfig(Section):
    """Tasks, the settings that they are scored with, and means over them."""

    tasks: tuple[SuiteTask, ...] = Field(min_length=1)
    """What is scored, in the order of the table."""
    groups: dict[str, SuiteGroup] = Field(default_factory=dict)
    """Means beside those that the task definitions bring along."""
    limit: float | None = Field(default=None, gt=0)
    """Documents of each task, or a share below 1; default all."""
    include_path: str | None = None
    """Folder of task YAMLs to use instead of lm-eval's own, relative to the file that `--suite`
    names, also where an included file gives it."""
    noise: SuiteNoise | None = None
    """Given, the tasks are scored with corrupted questions."""
