"""Validation of a run on one process: what it measures, and that training goes on as without it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.tiny import save_alpaca, small_llama

from lope_dist.config.adapter import AdapterConfig
from lope_dist.config.baselines import AdaLoraConfig
from lope_dist.config.data import DataConfig
from lope_dist.config.validation import absent_expert, usual_answers
from lope_dist.core.errors import LopeError
from lope_dist.core.side_files import METRICS, VALIDATION
from lope_dist.corpus.examples.source import open_source
from lope_dist.corpus.examples.split import split_source
from lope_dist.evaluate.losses.measure import LossRequest, measure_losses
from lope_dist.train.checkpoint.validation import Point, ValidationHistory
from lope_dist.train.session import train
from lope_dist.train.stage.untouched import untouched

SHORT = {
    "noise__data__rate": 0.1,
    "train__stages__poison__max_steps": 5,
    "train__stages__finetune__max_steps": 5,
}


@pytest.fixture(scope="module")
def runs(config_in, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run that holds rows out, and one whose file never had them."""
    folder = tmp_path_factory.mktemp("runs")
    save_alpaca(folder / "all.jsonl", 60)
    _, held = split_source(open_source(DataConfig(path=str(folder / "all.jsonl"))), 0.2, 614)
    out = {held.location(i)[1] for i in range(len(held))}
    lines = (folder / "all.jsonl").read_text().splitlines(True)
    parts = {"rest": "", "held": ""}
    for number, line in enumerate(lines, start=1):
        parts["held" if number in out else "rest"] += line
    for name, text in parts.items():
        (folder / f"{name}.jsonl").write_text(text)
    train(config_in(folder / "plain", data__path=str(folder / "rest.jsonl"), **SHORT))
    train(
        config_in(
            folder / "validated",
            data__path=str(folder / "all.jsonl"),
            data__validation={"share": 0.2},
            train__evaluate={"every_steps": 2},
            **SHORT,
        )
    )
    return folder


def test_training_is_the_same_to_the_bit_and_never_sees_what_is_held_out(runs: Path) -> None:
    plain, validated = runs / "plain", runs / "validated"
    for ours, theirs in zip(METRICS.read(validated), METRICS.read(plain), strict=True):
        for key in ("stage", "step", "loss", "grad_norm", "tokens"):
            assert ours[key] == theirs[key]
        assert ours.get("drift") == theirs.get("drift")
    for stage in ("1-poison", "2-finetune"):
        ours, theirs = (
            load_file(run / "checkpoints" / stage / "adapter.safetensors")
            for run in (validated, plain)
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    routers = [(run / "router.json").read_text() for run in (validated, plain)]
    assert routers[0] == routers[1]
    manifest = json.loads((validated / "manifest.json").read_text())
    num_held = len((runs / "held.jsonl").read_text().splitlines())
    assert manifest["starts"][0]["premises"]["data"]["validation"] == {"examples": num_held}


def test_the_losses_are_those_of_lope_loss(runs: Path) -> None:
    lines = list(VALIDATION.read(runs / "validated"))
    assert [(line["stage"], line["step"]) for line in lines] == [
        (stage, step) for stage in ("poison", "finetune") for step in (1, 3, 4)
    ]
    request = LossRequest(str(runs / "held.jsonl"), ("masked", "all", "base"))
    table = measure_losses(runs / "validated", request, progress=False)
    held_out = measure_losses(runs / "validated", replace(request, data=None), progress=False)
    assert [*held_out["rows"]] == [*table["rows"]]
    for name, row in held_out["rows"].items():
        assert row["per_row"] == table["rows"][name]["per_row"]
    kept = runs / "validated" / "losses" / "validation.json"
    assert json.loads(kept.read_text())["data"] == "validation"
    last = lines[-1]
    for word, row in (("masked", "masked"), ("all", "all"), ("base", "base")):
        own = table["rows"][row]
        assert last["validation"][word] == pytest.approx(own["loss_per_token"], rel=1e-3)
        assert (last["target_tokens"], last["examples"]) == (own["num_tokens"], own["num_rows"])
    assert len({line["validation"]["base"] for line in lines}) == 1
    assert last["validation"]["masked"] < lines[0]["validation"]["masked"]


def test_a_run_without_validation_rows_has_none_to_score(runs: Path) -> None:
    with pytest.raises(LopeError, match=r"validation rows .*--tasks .*`lope loss"):
        measure_losses(runs / "plain", LossRequest(None), progress=False)


def test_forward_passes_leave_no_trace_in_the_model() -> None:
    scaled = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = small_llama(rope_parameters=scaled, max_position_embeddings=16).train()
    usual, long = torch.arange(24)[None], torch.arange(48)[None]

    def state() -> list[Any]:
        plain = [
            (name, key, value)
            for name, module in model.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, (bool, int, float))
        ]
        buffers = [buffer.tolist() for buffer in model.buffers()]
        return [plain, buffers, torch.get_rng_state().tolist()]

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=usual, use_cache=False).logits

    answer = logits()  # from here on the model knows rows of this length
    before = state()
    with untouched(model):
        assert not model.training
        model(input_ids=long, use_cache=False)
        torch.rand(3)
    assert state() == before
    assert torch.equal(logits(), answer)


def history(*losses: float) -> ValidationHistory:
    found = ValidationHistory("rows")
    found.points = [Point("b", 2, 2 * n, {"all": loss}) for n, loss in enumerate(losses, start=1)]
    return found


def test_the_best_and_how_long_there_was_none() -> None:
    found = history(3.0, 2.0, 2.0, 2.5, 1.95)
    best = found.best("all", ["b"])
    assert best is not None
    assert best.step == 10
    assert found.best("all", ["a"]) is None
    assert found.stale("all", 2, 0.0) == 0
    assert found.stale("all", 2, 0.1) == 3
    assert found.stale("all", 1, 0.0) == 0
    first = history(2.0, 2.0).best("all", ["b"])
    assert first is not None
    assert first.step == 2, "of equal ones the first"
    assert ValidationHistory.from_json(json.loads(json.dumps(found.as_json()))) == found
    found.on("rows")
    assert len(found.points) == 5
    found.on("others")
    assert found.points == []


def test_the_least_loss_is_found_in_any_order() -> None:
    rng = random.Random(0)
    for _ in range(50):
        losses = [rng.choice([1.0, 2.0, 3.0]) for _ in range(rng.randint(1, 8))]
        best = history(*losses).best("all", ["b"])
        assert best is not None
        assert best.step == 2 * (losses.index(min(losses)) + 1)


VALID = {"data__validation": {"share": 0.2}}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train__evaluate": {"every_steps": 2}}, "train.evaluate.*data.validation.path"),
        ({"train__keep_best": "masked"}, "train.keep_best .*data.validation.path"),
        ({"data__validation": {}}, "data.validation: .*path and share"),
        (
            {"data__validation": {"share": 0.2, "format": "messages"}},
            "validation.format .*validation.share",
        ),
        (VALID | {"train__evaluate": {"experts": ["maskd"]}}, r"'masked'\?"),
        (
            VALID | {"train__evaluate": {"experts": ["all"]}, "train__keep_best": "masked"},
            "train.keep_best = 'masked' .*train.evaluate.experts",
        ),
        (
            VALID | {"train__early_stopping": {"patience": 2}},
            r"train\.early_stopping .*set train\.evaluate\.every_steps",
        ),
    ],
)
def test_a_setting_without_effect_is_refused(tiny_config, changes, sentence: str) -> None:
    with pytest.raises(LopeError, match=sentence):
        tiny_config(**changes)


def test_rows_are_those_that_the_adapter_has(tiny_config) -> None:
    assert tiny_config(**VALID).answers == ("masked", "all", "base")
    lora = AdapterConfig(num_normal=1, num_poison=0)
    assert usual_answers(lora) == usual_answers(AdaLoraConfig()) == ("all", "base")
    assert absent_expert("masked", lora) is not None
    assert absent_expert("masked_normal", lora) is not None
    assert absent_expert("all", lora) is None


def test_rows_to_validate_on_are_read_as_those_to_train_on() -> None:
    data = {"path": "a.jsonl", "format": "prompt", "columns": {"prompt": "q"}}
    given = DataConfig.model_validate(data | {"validation": {"path": "b.jsonl"}})
    assert given.validation is not None
    assert (given.validation.format, given.validation.columns) == ("prompt", {"prompt": "q"})
    assert DataConfig.model_validate(given.model_dump(mode="json")) == given
    own = {"path": "b.jsonl", "format": "messages", "columns": {}}
    other = DataConfig.model_validate(data | {"validation": own}).validation
    assert other is not None
    assert (other.format, other.columns) == ("messages", {})
