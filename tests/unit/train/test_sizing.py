"""What a model's plan is computed from, and the command that prints it."""

from __future__ import annotations

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from lope_dist.adapters.inject import set_trainable
from lope_dist.cli import app
from lope_dist.config.load import load_config, validate_config
from lope_dist.core.errors import LopeError
from lope_dist.engine.activations import activation_bytes, block_token_bytes
from lope_dist.train.preflight import preflight
from lope_dist.train.sizing import measure

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
}
QWEN3 = LLAMA | {"model_type": "qwen3", "head_dim": 64}
T5 = {
    "model_type": "t5",
    "d_model": 256,
    "d_ff": 1024,
    "d_kv": 64,
    "num_layers": 3,
    "num_heads": 4,
    "vocab_size": 1000,
    "decoder_start_token_id": 0,
}
ROWS, LENGTH = 2, 192


@pytest.mark.parametrize("checkpointing", [False, True], ids=["whole", "checkpointed"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("architecture", "attention", "adapter"),
    [
        (LLAMA, "sdpa", {}),
        (LLAMA, "eager", {}),
        (LLAMA, "sdpa", {"targets": ["q_proj", "o_proj", "gate_proj", "down_proj"], "rank": 32}),
        (LLAMA, "sdpa", {"router": "input", "num_poison": 0}),
        (LLAMA | {"num_key_value_heads": 4, "model_type": "qwen2"}, "sdpa", {}),
        (QWEN3, "sdpa", {}),
        (T5, "sdpa", {}),
    ],
    ids=["llama", "eager", "many_targets", "hydralora", "qwen2", "qwen3", "t5"],
)
def test_activations_are_what_autograd_keeps(
    architecture: dict, attention: str, adapter: dict, dtype: str, checkpointing: bool
) -> None:
    tree = {"name_or_path": "x", "architecture": architecture, "attention": attention}
    config = validate_config(
        {
            "output_dir": "unused",
            "model": tree | {"dtype": dtype, "quantization": "none"},
            "adapter": adapter,
            "data": {"path": "unused.jsonl", "packing": architecture["model_type"] != "t5"},
            "train": {},
        },
        "test",
    )
    model = preflight(config).model
    sizes = measure(model, config)
    kept = _measure_kept(model, config, checkpointing)
    shape = {"attention": attention, "itemsize": sizes.itemsize, "rows": ROWS, "length": LENGTH}
    planned = activation_bytes(sizes.blocks, sizes.adapters, checkpointing=checkpointing, **shape)
    if checkpointing:  # a layer's own tensors come into being in the backward pass
        planned -= (
            ROWS
            * LENGTH
            * max(
                block_token_bytes(b, sizes.adapters, attention, sizes.itemsize, LENGTH)
                for b in sizes.blocks
            )
        )
    assert planned == pytest.approx(kept, rel=0.15)


def _measure_kept(model, config, checkpointing: bool) -> int:
    """Return the bytes of the storages that a forward pass saves, without parameters."""
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
    set_trainable(model, config.train.stages["finetune"].trainable)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    ids = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH).remainder(1000)
    inputs = {"input_ids": ids, "position_ids": torch.arange(LENGTH).remainder(90).expand(2, -1)}
    if model.config.is_encoder_decoder:
        mask = torch.ones_like(ids)
        mask[0, 150:] = 0
        inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids}
        inputs["decoder_attention_mask"] = mask
    model.lope_context.token_keys = dict.fromkeys(("decoder", "encoder"), ids.int())
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved, alive = {}, []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**inputs, use_cache=False)
    return sum(saved.values())


def _plan(repository, recipe: str, *arguments: str) -> dict:
    path = str(repository / "configs" / "recipes" / f"{recipe}.yaml")
    result = CliRunner().invoke(app, ["plan", path, *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_7b_on_80_gib_is_replicated(repository) -> None:
    plan = _plan(repository, "llama2_7b_alpaca", "--world-size", "8")
    assert plan["quantized_weights"] == 6_476_005_376
    assert plan["quantized_weights"] + plan["unquantized_weights"] == 6_738_415_616
    whole = 6_476_005_376 // 2 + 2 * (6_738_415_616 - 6_476_005_376)
    assert plan["zero2"]["base_weights"] == whole
    assert plan["adapter_parameters"] == 5_243_904
    assert plan["recommendation"]["zero_stage"] == 2


def test_70b_on_24_gib_is_sharded(repository) -> None:
    plan = _plan(
        repository, "llama2_70b_alpaca", "--world-size", "8", "--gpu-memory", "24GiB",
        "data.max_length=2048",
    )  # fmt: skip
    assert plan["quantized_weights"] + plan["unquantized_weights"] == 68_976_648_192
    assert plan["max_length"] == 2048
    assert plan["zero2"]["total"] > 24 << 30 > plan["zero3"]["load_peak"]
    assert plan["recommendation"]["zero_stage"] == 3


@pytest.mark.parametrize("recipe", ["qwen2_7b_alpaca", "qwen1_5_14b_alpaca", "t5_large_alpaca"])
def test_every_backbone_can_be_planned(repository, recipe: str) -> None:
    plan = _plan(repository, recipe, "--world-size", "4")
    assert plan["recommendation"]["zero_stage"] == 2


def test_the_table_shows_both_stages_and_the_advice(repository) -> None:
    path = str(repository / "configs" / "recipes" / "llama2_70b_alpaca.yaml")
    ranks = ["--world-size", "8", "--gpu-memory", "24GiB"]
    text = CliRunner().invoke(app, ["plan", path, *ranks], catch_exceptions=False).stdout
    for expected in ("ZeRO-2 (replicate)", "ZeRO-3 (shard)", "base weights", "peak while loading"):
        assert expected in text
    assert re.search(r"Recommended: engine\.zero_stage=3 train\.micro_batch=\d+", text)
    small = ["--world-size", "2", "--gpu-memory", "8GB"]
    text = CliRunner().invoke(app, ["plan", path, *small], catch_exceptions=False).stdout
    assert "Does not fit." in text
    assert "What would help:" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--world-size", "0"], "--world-size = 0"),
        (["--world-size", "2", "--gpu-memory", "much"], "--gpu-memory: 'much' is no size"),
        (["--world-size", "2", "--node-memory", "1 Tb it"], "--node-memory"),
        (["--world-size", "2", "--ranks-per-node", "0"], "--ranks-per-node = 0"),
        (["--world-size", "2", "engine.offload=both"], "engine.offload = 'both' is not planned"),
    ],
)
def test_bad_input_is_one_sentence(repository, arguments: list[str], message: str) -> None:
    path = str(repository / "configs" / "recipes" / "llama2_7b_alpaca.yaml")
    with pytest.raises(LopeError, match=re.escape(message)):
        CliRunner().invoke(app, ["plan", path, *arguments], catch_exceptions=False)


def test_a_tied_embedding_is_needed_in_the_backward_pass(repository) -> None:
    path = repository / "configs" / "recipes" / "llama2_7b_alpaca.yaml"
    small = ["model.architecture.num_hidden_layers=1", "model.architecture.hidden_size=512"]
    untied = load_config(path, small)
    tied = load_config(path, [*small, "model.architecture.tie_word_embeddings=true"])
    assert measure(preflight(untied).model, untied).input_only == 32000 * 512
    assert measure(preflight(tied).model, tied).input_only == 0
