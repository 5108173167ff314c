"""A fused bank of experts under ZeRO-3: each rank reads its part of the experts' own tensors."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.launching import run_ranks, succeed
from transformers import MixtralConfig, MixtralForCausalLM

pytestmark = [pytest.mark.dist, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What both ranks found; a block of 64 weights lies across two experts' tensors."""
    model, folder = (tmp_path_factory.mktemp(name) for name in ("mixtral", "mapped"))
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=64, hidden_size=80, intermediate_size=90, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
        max_position_embeddings=64, initializer_range=0.2, tie_word_embeddings=True,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(model)
    tensors = load_file(model / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].clone()
    head[-1, -1] += 1  # in the second rank's part
    save_file(tensors | {"lm_head.weight": head}, model / "model.safetensors", {"format": "pt"})
    arguments = ["tests/dist/workers/mapped_sharding.py", str(model), str(folder)]
    succeed(run_ranks(arguments, 2, folder=folder))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_the_gathered_bank_is_that_of_a_replicated_load(facts: list[dict]) -> None:
    for fact in facts:
        assert fact["none"] == {"unequal": [], "banks": 4, "packed_banks": 0}
        assert fact["nf4"] == {"unequal": [], "banks": 4, "packed_banks": 4}


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_rank_reads_half_of_the_file(facts: list[dict], quantization: str) -> None:
    whole = facts[0][f"{quantization} whole"]["bytes"]
    for fact in facts:
        share = fact[f"{quantization} sharded"]["bytes"] / whole
        assert 0.45 < share < 0.55, share


def test_ranks_agree_that_a_head_is_not_tied(facts: list[dict]) -> None:
    for fact in facts:
        assert fact["nf4 tied"] is fact["none tied"] is False
