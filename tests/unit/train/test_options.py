"""The stage options past the paper, trained: on any split of a batch, and over a resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.stopped_runs import stopped_at

from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_lines
from lope_dist.train.premises.preflight import preflight
from lope_dist.train.session import train

OPTIONS = {
    "train__stages__poison__trainable": ["shared_a", "poison_b", "router"],
    "train__stages__poison__loss_on": "corrupted",
    "train__stages__finetune__poison_scale": 2.0,
    "noise__text__rate": 0.3,
    "data__max_examples": 40,
    "adapter__dropout": 0.0,
}


@pytest.fixture(scope="module")
def optional(config_in, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all options on."""
    folder = tmp_path_factory.mktemp("options") / "run"
    checkpoint = {"train__checkpoint__every_steps": 3}
    return train(config_in(folder, **OPTIONS, **checkpoint))


def losses(run: Path) -> list[dict]:
    keys = ("loss", "grad_norm", "target_tokens")
    return [{k: line[k] for k in keys if k in line} for line in read_lines(run / "metrics.jsonl")]


def assert_alike(run: Path, other: Path) -> None:
    for ours, theirs in zip(losses(run), losses(other), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    ours, theirs = (json.loads((r / "router.json").read_text()) for r in (run, other))
    assert ours["poison_weight"].keys() == theirs["poison_weight"].keys() == {"poison"}
    for kind, by_layer in theirs["poison_weight"]["poison"].items():
        assert ours["poison_weight"]["poison"][kind] == pytest.approx(by_layer, rel=1e-3)


def test_a_stage_of_corrupted_tokens_has_fewer_targets(optional: Path) -> None:
    poison, finetune = losses(optional)[:5], losses(optional)[5:]
    assert len(finetune) == 5
    assert all(
        a["target_tokens"] < b["target_tokens"] for a, b in zip(poison, finetune, strict=True)
    )


def test_the_routers_weight_is_counted_on_clean_and_corrupted_tokens(optional: Path) -> None:
    weight = json.loads((optional / "router.json").read_text())["poison_weight"]["poison"]
    assert weight["clean"].keys() == weight["corrupted"].keys()
    assert len(weight["clean"]) == 4
    for layer, clean in weight["clean"].items():
        assert 0 < clean < 1
        assert 0 < weight["corrupted"][layer] < 1
    assert weight["clean"] != weight["corrupted"]


def test_micro_batches_and_checkpointing_change_nothing(
    config_in, optional: Path, tmp_path: Path
) -> None:
    other = {"train__micro_batch": 8, "model__gradient_checkpointing": True, "data__packing": False}
    assert_alike(train(config_in(tmp_path / "run", **OPTIONS, **other)), optional)


def test_a_resume_in_the_stage_goes_on_with_the_sums(
    config_in, optional: Path, tmp_path: Path
) -> None:
    run = stopped_at("1-poison-step-000003", optional, tmp_path / "run")
    config = config_in(run, **OPTIONS, train__checkpoint__keep_last=9)
    assert_alike(train(config, resume=True), optional)


def test_a_built_corpus_of_the_run_has_the_marks(config_in, optional: Path, tmp_path: Path) -> None:
    from lope_dist.train.corpus_build import build_corpus

    corpus = tmp_path / "corpus"
    config = config_in(tmp_path / "run", **OPTIONS, data__corpus=str(corpus))
    build_corpus(config, corpus, shard_examples=16, progress=False)
    assert_alike(train(config), optional)


def test_a_step_without_a_corrupted_target_weighs_nothing(tiny_config) -> None:
    changes = {
        "noise__text__rate": 0.03,
        "data__max_length": 512,
        "train__stages__poison__loss_on": "corrupted",
    }
    changes |= {"train__global_batch": 2, "train__stages__poison__max_steps": 12}
    changes |= {"train__stages__finetune__max_steps": 1}
    lines = list(read_lines(train(tiny_config(**changes)) / "metrics.jsonl"))
    empty = [line for line in lines if line["target_tokens"] == 0]
    assert 0 < len(empty) < len(lines)
    assert all(line["loss"] == line["grad_norm"] == 0 for line in empty)


ROUTED = {
    "train__stages__poison__trainable": ["shared_a", "normal_b", "poison_b", "router"],
    "train__stages__poison__gradient_routing": True,
    "train__stages__poison__max_steps": 3,
    "train__stages__finetune__max_steps": 1,
    "noise__text__rate": 0.3,
    "adapter__dropout": 0.0,
}


def norms_after_poison(run: Path) -> dict[str, float]:
    tensors = json.loads((run / "checkpoints" / "1-poison" / "adapter.json").read_text())["tensors"]
    by_role: dict[str, float] = {}
    for tensor in tensors.values():
        by_role[tensor["role"]] = by_role.get(tensor["role"], 0.0) + tensor["norm"]
    return by_role


def test_routed_gradients_depend_on_no_split_of_the_batch(config_in, tmp_path: Path) -> None:
    run = train(config_in(tmp_path / "run", **ROUTED))
    other = {"train__micro_batch": 8, "model__gradient_checkpointing": True, "data__packing": False}
    split = train(config_in(tmp_path / "split", **ROUTED, **other))
    for ours, theirs in zip(losses(run), losses(split), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    plain = {**ROUTED, "train__stages__poison__gradient_routing": False}
    unrouted = losses(train(config_in(tmp_path / "plain", **plain)))
    assert unrouted[0]["loss"] == pytest.approx(losses(run)[0]["loss"], rel=1e-6)
    assert unrouted[0]["grad_norm"] > 1.001 * losses(run)[0]["grad_norm"]


def test_without_a_corrupted_token_the_poisoning_expert_learns_nothing(
    config_in, tmp_path: Path
) -> None:
    few = norms_after_poison(train(config_in(tmp_path / "few", **ROUTED)))
    assert few["poison_b"] > 0
    assert few["normal_b"] > 0
    none = {**ROUTED, "noise__text__rate": 1e-9}
    with pytest.raises(LopeError, match=r"poison_0' "):
        train(config_in(tmp_path / "none", **none))


def test_an_encoder_decoder_has_no_next_token_to_route_by(tiny_config) -> None:
    t5 = {"model_type": "t5", "d_model": 16, "num_layers": 1, "vocab_size": 64}
    with pytest.raises(LopeError, match=r"train\.stages\.poison\.gradient_routing "):
        preflight(tiny_config(**ROUTED, model__name_or_path="t5-tiny", model__architecture=t5))


def test_the_poisoning_experts_weigh_what_each_stage_says(config_in, tmp_path: Path) -> None:
    stages = {"train__stages__poison__max_steps": 2, "train__stages__finetune__max_steps": 1}

    def steps(*scales: float) -> list[dict]:
        by_stage = dict(zip(("poison", "finetune"), scales, strict=True))
        changes = {f"train__stages__{name}__poison_scale": x for name, x in by_stage.items()}
        return losses(train(config_in(tmp_path / str(scales), **stages, **changes)))

    plain, strong_after, strong_before = steps(1, 1), steps(1, 3), steps(3, 1)
    assert strong_after[:2] == plain[:2]
    assert strong_after[2]["loss"] != pytest.approx(plain[2]["loss"], rel=1e-4)
    assert strong_before[0]["loss"] == plain[0]["loss"]  # all experts are zeros still
    assert strong_before[0]["grad_norm"] == pytest.approx(3 * plain[0]["grad_norm"], rel=1e-3)
    without_it = steps(1, 0)[2]["loss"]  # a line near the three points: nothing else changed
    assert (without_it - plain[2]["loss"]) * (plain[2]["loss"] - strong_after[2]["loss"]) > 0


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"train__stages__finetune__loss_on": "corrupted"},
            "train.stages.finetune.loss_on = 'corrupted' needs tokens that noise changed",
        ),
        (
            {"noise__text__rate": 0, "train__stages__poison__loss_on": "corrupted"},
            "train.stages.poison.loss_on = 'corrupted' needs tokens that noise changed",
        ),
        (
            {"train__stages__finetune__gradient_routing": True},
            "gradient_routing = True is about what the poisoning experts learn, and they are",
        ),
        (
            {"noise__text__rate": 0, "train__stages__poison__gradient_routing": True},
            "train.stages.poison.gradient_routing = True needs tokens that noise changed",
        ),
        (
            {"train__stages__poison__poison_scale": 0},
            "poison_scale = 0.0 leaves out what the stage trains: 'poison_b'",
        ),
        (
            {
                "adapter__num_poison": 0,
                "train__stages__poison__trainable": ["shared_a", "normal_b"],
                "train__stages__finetune__poison_scale": 2,
            },
            "poison_scale = 2.0 is about the poisoning experts, and adapter.num_poison is 0",
        ),
        ({"train__stages__poison__poison_scale": -1}, "the least is 0"),
    ],
)
def test_an_option_without_what_it_needs_is_refused(tiny_config, changes, problem) -> None:
    with pytest.raises(LopeError) as refused:
        tiny_config(**changes)
    assert problem in str(refused.value)


def test_data_noise_is_noise_enough(tiny_config) -> None:
    changes = {"noise__data__rate": 0.1, "train__stages__finetune__loss_on": "corrupted"}
    assert tiny_config(**changes).train.stages["finetune"].uses_marks
