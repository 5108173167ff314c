"""What of a configuration decides a run's result, and how two of them differ in it."""

from __future__ import annotations

import re
from typing import Any

_DECIDES_THE_RESULT = ("seed", "model", "adapter", "noise", "data", "train")
# Settings in there that may change on resume: logging, what is kept, how a batch is made,
# split or recomputed, and how many bad steps are put up with.
_FREE_TO_CHANGE = (
    "data.corpus",
    "data.max_bad_rows",  # which rows are left out shows in the data's own fingerprint
    "data.workers",
    "model.gradient_checkpointing",
    "train.checkpoint.every_steps",
    "train.checkpoint.keep_last",
    "train.log_every_seconds",
    "train.log_every_steps",
    "train.max_skipped_steps",
    "train.micro_batch",
    "train.trackers",
    "train.tracking.name",
    "train.tracking.project",
    "train.tracking.tags",
)

# What may differ among the checkpoints of one run: `--extend` changes lengths, and once a resume
# could change by which loss the best one is chosen.
_OF_A_CHECKPOINT = re.compile(r"train\.(stages\..+\.(epochs|max_steps)|keep_best): ")
_SETTLED_BY_THE_RUN = ("data.packing", "model.attention")


def method_differences(
    before: dict[str, Any], now: dict[str, Any], *, of_checkpoint: bool = False
) -> list[str]:
    """Return `key: old -> new` for each value of two whole configurations that differs.

    ``of_checkpoint``: without those in which a checkpoint may differ from its run.
    """
    old, new = ({key: tree.get(key) for key in _DECIDES_THE_RESULT} for tree in (before, now))
    gone = _of_validation(old) & _of_validation(new)
    old, new = _without(old, gone), _without(new, gone)
    differences = describe_difference(old, new)
    if not of_checkpoint:
        return differences
    return [each for each in differences if not _OF_A_CHECKPOINT.match(each)]


def _of_validation(tree: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the settings of validation that have no say in what is trained, or for how long."""
    data, train = tree.get("data") or {}, tree.get("train") or {}
    if train.get("early_stopping") is not None:
        return set()
    is_share = (data.get("validation") or {}).get("share") is not None
    of_train = {("train", "evaluate"), ("train", "keep_best")}
    return of_train if is_share else of_train | {("data", "validation")}


def _without(tree: dict[str, Any], gone: set[tuple[str, str]]) -> dict[str, Any]:
    return {
        section: {key: value for key, value in values.items() if (section, key) not in gone}
        if isinstance(values, dict)
        else values
        for section, values in tree.items()
    }


def describe_difference(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return `key: old -> new` for each value that differs and decides the result."""
    old, new = _flat(before), _flat(now)
    for key in _SETTLED_BY_THE_RUN:
        if "auto" in (old.get(key), new.get(key)):
            old[key] = new[key] = None  # the run goes on with what it has settled
    return [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and key not in _FREE_TO_CHANGE
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
