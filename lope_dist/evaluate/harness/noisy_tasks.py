"""The noisy variant of a task: its questions corrupted by the project's own noise.

Only the documents that are scored change, and of them only the columns that hold the question.
lm-eval draws few-shot examples from the documents as they were when the task was made, so they
stay clean, as do choices and answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets

from lope_dist.config.suite import SuiteNoise
from lope_dist.core.errors import LopeError
from lope_dist.noise.mix import corrupt, example_keys

EVAL_NOISE = "eval-noise"
"""Purpose of the noise, followed by the task's name; its epoch is always 0."""


def corrupt_questions(task: Any, question: Sequence[str], noise: SuiteNoise) -> None:
    """Corrupt a task's scored documents in place and give it the variant's name.

    Raises:
        LopeError: a column that is absent or holds no text, or few-shot examples that would be
            drawn from the scored documents.
    """
    name, num_fewshot = task.task_name, task.config.num_fewshot
    split = task.config.test_split or task.config.validation_split
    if num_fewshot and _fewshot_split(task) == split:
        raise LopeError(
            f"Task '{name}' draws its {num_fewshot} few-shot examples from the documents "
            "that it scores, where the clean form of a noisy question would show its answer; use "
            "num_fewshot 0, or a definition with another fewshot_split."
        )
    documents: datasets.Dataset = task.dataset[split]
    for column in question:
        if not _is_text(documents.features.get(column)):
            texts = [c for c, f in documents.features.items() if _is_text(f)]
            raise LopeError(
                f"Task '{name}': '{column}' is not a column of text; there are: {', '.join(texts)}."
            )
    columns = [documents[column][:] for column in question]
    keys = example_keys(noise.seed, f"{EVAL_NOISE}:{name}", 0, range(len(documents)))
    for slot, (column, texts) in enumerate(zip(question, columns, strict=True)):
        owners = range(len(texts))
        noisy = corrupt(texts, owners, [slot] * len(texts), keys, noise.text).texts
        documents = documents.remove_columns(column).add_column(column, noisy)  # pyright: ignore
    task.dataset = datasets.DatasetDict({**task.dataset, split: documents})
    task.set_config("task", name + noise.suffix)


def _fewshot_split(task: Any) -> str | None:
    """Return where lm-eval takes the task's few-shot examples from."""
    config = task.config
    if task.fewshot_cfg.split is None and task.fewshot_cfg.samples is not None:
        return None
    default = config.training_split or config.validation_split or config.test_split
    return task.fewshot_cfg.split or default


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string")
