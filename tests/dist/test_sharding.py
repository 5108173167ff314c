"""The streamed load under ZeRO-3, and what a forward pass leaves in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.launching import run_ranks, succeed
from support.quick import quick
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

pytestmark = [pytest.mark.dist, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random Llama whose packed tensors no number of ranks divides, and it saved as NF4."""
    folder, packed = (tmp_path_factory.mktemp(name) for name in ("uneven", "packed"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=101, hidden_size=80, intermediate_size=100, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=settings
    ).save_pretrained(packed)
    return folder, packed


RANKS = {"1 rank": 1, "3 ranks": 3, "4 ranks": 4, "2 hosts of 2 ranks": 4}


@pytest.fixture(scope="module", params=quick(RANKS, "3 ranks"))
def facts(request, models, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each rank of one launch found, and how many share one copy."""
    folder, num = tmp_path_factory.mktemp("sharding"), RANKS[request.param]
    per_host = 2 if "hosts" in request.param else num
    arguments = ["tests/dist/workers/sharding.py", *map(str, models), str(folder), str(per_host)]
    succeed(run_ranks(arguments, num, folder=folder))
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(num)]
    return [fact | {"sharing": per_host} for fact in found]


def test_gathered_weights_are_bit_equal_to_a_replicated_load(facts: list[dict]) -> None:
    for fact in facts:
        assert fact["num_compared"] == 21
        assert fact["unequal"] == []


def test_gathered_weights_and_scales_are_what_bitsandbytes_gives_for_the_whole(
    facts: list[dict],
) -> None:
    for fact in facts:
        assert fact["num_quantized"] == 14
        assert fact["unequal_to_bitsandbytes"] == []


def test_a_checkpoint_that_is_packed_already_loads_bit_equal(facts: list[dict]) -> None:
    for fact in facts:
        assert fact["unequal_packed"] == []


def test_a_rank_keeps_its_share_and_no_more(facts: list[dict]) -> None:
    for fact in facts:
        share = fact["whole_elements"] / fact["sharing"]
        assert share <= fact["kept_elements"] <= share + fact["num_compared"]


def test_logits_equal_and_stay_equal_after_an_evaluation(facts: list[dict]) -> None:
    for fact in facts:
        assert fact["logits_equal"]
        assert fact["logits_equal_after_eval"]


def test_a_forward_pass_frees_what_it_gathered(facts: list[dict]) -> None:
    """Bitsandbytes' own forward, measured beside ours, keeps the quantized model.

    All of it but the first layer's q, k and v, whose input needs no gradient.
    """
    for fact in facts:
        assert fact["live_nf4_bytes_ours"] == 0
        if len(facts) > 1:  # a single rank's partition is the weight: nothing is gathered
            assert fact["live_nf4_bytes_stock"] >= 0.8 * fact["nf4_bytes"]
