"""Runs with losses for noisy targets: any split is the same run, and a resume goes on with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.stopped_runs import stopped_at
from torch import Tensor

from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_lines
from lope_dist.train.session import train

TRUNCATED = {"kind": "truncated", "share": 0.3}
ROBUST = {
    "train__stages__poison__loss": TRUNCATED,
    "train__stages__poison__ema_decay": 0.8,
    "train__stages__finetune__loss": TRUNCATED | {"by": "base"},
    "data__max_examples": 40,
    "adapter__dropout": 0.0,
}


@pytest.fixture(scope="module")
def robust(config_in, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("robust") / "run"
    checkpoint = {"train__checkpoint__every_steps": 3, "train__checkpoint__keep_last": 9}
    return train(config_in(folder, **ROBUST, **checkpoint))


def assert_alike(run: Path, other: Path) -> None:
    keys = ("loss", "grad_norm", "target_tokens")
    ours, theirs = (list(read_lines(r / "metrics.jsonl")) for r in (run, other))
    assert len(ours) == len(theirs) == 10
    for a, b in zip(ours, theirs, strict=True):
        assert [a[k] for k in keys] == pytest.approx([b[k] for k in keys], rel=1e-3)
    for stage in ("1-poison", "2-finetune"):
        ours, theirs = (adapter(r, stage) for r in (run, other))
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)


def adapter(run: Path, checkpoint: str) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / checkpoint / "adapter.safetensors")


def test_truncated_losses_do_not_depend_on_the_split(config_in, robust, tmp_path) -> None:
    other = {"train__micro_batch": 8, "model__gradient_checkpointing": True, "data__packing": False}
    assert_alike(train(config_in(tmp_path / "run", **ROBUST, **other)), robust)


def test_a_truncated_loss_is_below_the_plain_one(config_in, robust, tmp_path) -> None:
    plain = {k: v for k, v in ROBUST.items() if not k.endswith("loss")}
    run = train(config_in(tmp_path / "run", **plain, train__stages__poison__max_steps=1))
    first, other = (next(iter(read_lines(r / "metrics.jsonl"))) for r in (run, robust))
    assert other["loss"] < 0.9 * first["loss"]
    assert other["target_tokens"] == first["target_tokens"]


def test_a_resume_goes_on_with_the_average_and_with_what_is_stepped(
    config_in, robust, tmp_path
) -> None:
    run = stopped_at("1-poison-step-000003", robust, tmp_path / "run")
    config = config_in(run, **ROBUST, train__checkpoint__keep_last=9)
    assert_alike(train(config, resume=True), robust)


def test_the_average_is_what_is_saved(robust) -> None:
    """By its definition, from the weights that were stepped: three steps, decay 0.1, 2/11, 3/12."""
    folder = robust / "checkpoints"
    state = load_file(folder / "1-poison-step-000003" / "optimizer.safetensors")
    saved = adapter(robust, "1-poison-step-000003")
    names = [k.removesuffix(".stepped") for k in state if k.endswith(".stepped")]
    assert names
    assert state["ema.steps"].item() == 3
    assert any(not torch.equal(saved[n], state[f"{n}.stepped"]) for n in names)
    later = load_file(folder / "1-poison" / "optimizer.safetensors")
    assert later["ema.steps"].item() == 5


def test_an_average_is_validated_saved_and_gone_on_with(config_in, tmp_path) -> None:
    """With one step a stage it is 0.1 of the start and 0.9 of the step's weights."""
    settings = {"train__stages__poison__max_steps": 1, "train__stages__finetune__max_steps": 1}
    settings |= {"data__validation__share": 0.2, "data__max_examples": 40}
    first = train(config_in(tmp_path / "plain", **settings))
    decay = {"train__stages__finetune__ema_decay": 0.9}
    second = train(config_in(tmp_path / "ema", **settings, **decay))
    start, stepped, averaged = (
        adapter(first, "1-poison"),
        adapter(first, "2-finetune"),
        adapter(second, "2-finetune"),
    )
    for name, value in averaged.items():
        expected = 0.1 * start[name] + 0.9 * stepped[name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
    losses = [
        [m["validation"]["all"] for m in read_lines(run / "metrics.jsonl") if "validation" in m]
        for run in (first, second)
    ]
    assert losses[0][0] == losses[1][0]
    assert losses[0][-1] != losses[1][-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__stages__poison__loss": {"kind": "huber"}}, "kind"),
        (
            {"train__stages__poison__loss": {"kind": "generalized", "share": 0.2}},
            "Unknown key .share. in train.stages.poison.loss",
        ),
        (
            {"train__stages__poison__loss": TRUNCATED, "model__kernels": "liger"},
            r"train\.stages\.poison\.loss\.kind = 'truncated'.*model\.kernels=auto",
        ),
        ({"train__stages__poison__loss": {"kind": "truncated", "share": 1.0}}, "share"),
        (
            {"data__columns": {"weight": "quality"}, "model__kernels": "liger"},
            r"data\.columns .*model\.kernels=auto",
        ),
    ],
)
def test_what_cannot_be_applied_is_refused(
    tiny_config: Callable, changes: dict, message: str
) -> None:
    with pytest.raises(LopeError, match=message):
        tiny_config(**changes)
