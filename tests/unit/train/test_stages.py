"""What the two stages do to which parameter, and what they write; on one trained run."""

import json

import pytest
import torch
from safetensors.torch import load_file

from lope_dist.config.load import load_config
from lope_dist.core.roles import Role
from lope_dist.core.runlog import read_json, read_lines
from lope_dist.model.build import load_model
from lope_dist.model.placement import Replicated
from lope_dist.train.checkpoint.history import last_checkpoint
from lope_dist.train.premises.preflight import adapt, preflight, with_settled
from lope_dist.train.stage.schedule import lr_factor

NUM_STEPS = 11  # 83 examples in batches of 8


@pytest.fixture(scope="module")
def weights(trained):
    """Adapter weights before, after Stage I and after Stage II."""
    config = trained.config
    model = load_model(config.model, Replicated(torch.device("cpu")), progress=False)
    adapt(model, config, preflight(config).family)
    fresh = {name: p.detach() for name, p in model.named_parameters() if ".lope." in name}
    folders = [trained.folder / "checkpoints" / name for name in ("1-poison", "2-finetune")]
    return [fresh, *(load_file(folder / "adapter.safetensors") for folder in folders)]


@pytest.fixture(scope="module")
def names_of(trained):
    described = read_json(trained.folder / "checkpoints" / "1-poison" / "adapter.json")
    return {
        role: [n for n, entry in described["tensors"].items() if entry["role"] == role]
        for role in Role
    }


def metrics_of(trained):
    return trained.folder / "metrics.jsonl"


def moved(before, after, names):
    return [name for name in names if not torch.equal(before[name], after[name])]


def test_every_adapter_parameter_is_in_both_checkpoints_and_no_base_weight(weights, names_of):
    assert {role: len(names) for role, names in names_of.items()} == {
        Role.BASE: 0,
        Role.SHARED_A: 4,  # two layers, query and value
        Role.NORMAL_B: 12,
        Role.POISON_B: 4,
        Role.ROUTER: 4,
        Role.ADAPTER: 0,
    }
    assert set(weights[0]) == set(weights[1]) == set(weights[2])


@pytest.mark.parametrize("role", [Role.NORMAL_B, Role.ROUTER])
def test_stage_one_leaves_normal_experts_and_router_bit_equal(weights, names_of, role) -> None:
    fresh, first, _ = weights
    assert moved(fresh, first, names_of[role]) == []


@pytest.mark.parametrize("role", [Role.SHARED_A, Role.POISON_B])
def test_stage_one_trains_a_and_the_poisoning_expert(weights, names_of, role) -> None:
    fresh, first, _ = weights
    assert moved(fresh, first, names_of[role]) == names_of[role]


def test_stage_two_leaves_the_poisoning_expert_bit_equal(weights, names_of) -> None:
    _, first, second = weights
    assert moved(first, second, names_of[Role.POISON_B]) == []


@pytest.mark.parametrize("role", [Role.SHARED_A, Role.NORMAL_B, Role.ROUTER])
def test_stage_two_trains_the_others(weights, names_of, role) -> None:
    _, first, second = weights
    assert moved(first, second, names_of[role]) == names_of[role]


def test_normal_experts_have_become_different(weights, names_of) -> None:
    names = [n for n in names_of[Role.NORMAL_B] if n.startswith("model.layers.0.self_attn.q_proj")]
    a, b, c = (weights[2][name] for name in names)
    assert not torch.allclose(a, b)
    assert not torch.allclose(b, c)


def test_the_logged_drift_is_the_mean_change_since_the_stage_began(
    trained, weights, names_of
) -> None:
    lines = {(line["stage"], line["step"]): line for line in read_lines(metrics_of(trained))}
    for i, stage in enumerate(trained.config.train.stages):
        before, after = weights[i], weights[i + 1]
        expected = {}
        for role in trained.config.train.stages[stage].trainable:
            changes = [(after[n] - before[n]).flatten() for n in names_of[role]]
            expected[role] = float(torch.cat(changes).abs().mean())
        assert lines[stage, NUM_STEPS - 1]["drift"] == pytest.approx(expected, rel=1e-5)
        experts = {"poison": "poison_b", "finetune": "normal_b"}[stage]
        first = lines[stage, 0]  # AdamW's first step moves every value by its lr
        assert first["drift"][experts] == pytest.approx(first["lr"][experts], rel=0.05)


def test_noise_is_injected_in_stage_one_alone(trained) -> None:
    assert trained.embedding_noise == [trained.config.noise.embedding, None]


def test_each_step_logs_its_loss_and_each_roles_own_lr(trained) -> None:
    lines = list(read_lines(metrics_of(trained)))
    stages = trained.config.train.stages
    expected = [(stage, step) for stage in stages for step in range(NUM_STEPS)]
    assert [(line["stage"], line["step"]) for line in lines] == expected
    for line in lines:
        factor = lr_factor(stages[line["stage"]], line["step"], NUM_STEPS)
        peaks = {"shared_a": 0.01, "poison_b": 0.01}
        if line["stage"] == "finetune":
            peaks = {"shared_a": 0.01, "normal_b": 0.01, "router": 0.003}
        assert line["lr"] == pytest.approx({role: peak * factor for role, peak in peaks.items()})
        assert 0 < line["loss"] < 20
        assert 0 < line["target_tokens"] < line["tokens"]
        assert line["grad_norm"] > 0
        assert line["tokens_per_s"] > 0


def test_the_optimizer_steps_with_the_lr_that_is_logged(trained) -> None:
    lines = list(read_lines(metrics_of(trained)))
    assert trained.lrs == [line["lr"] for line in lines]


def test_training_lowers_the_loss(trained, losses) -> None:
    values = losses(trained.folder)
    assert sum(values[-3:]) < 0.8 * sum(values[:3])


def test_the_folder_tells_what_was_done(trained) -> None:
    settled = with_settled(trained.config, attention="sdpa", packing=True)
    assert load_config(trained.folder / "run.yaml") == settled
    assert read_json(trained.folder / "state.json")["status"] == "finished"
    last = last_checkpoint(trained.folder)
    assert last is not None
    assert (last.index, last.stage) == (2, "finetune")
    state = read_json(last.folder / "state.json")
    assert (state["stage"], state["stage_index"], state["steps"]) == ("finetune", 2, NUM_STEPS)
    assert len(state["data_fingerprint"]) == 32
    assert not list((trained.folder / "checkpoints").glob(".*"))


def test_router_usage_is_a_distribution_over_all_experts(trained) -> None:
    usage = json.loads((trained.folder / "router.json").read_text())
    assert usage["experts"] == ["normal_0", "normal_1", "normal_2", "poison_0"]
    for stage in trained.config.train.stages:
        assert len(usage[stage]) == 4
        for weights in usage[stage].values():
            assert len(weights) == 4
            assert sum(weights) == pytest.approx(1, abs=1e-4)
    assert usage["poison"] != usage["finetune"]
