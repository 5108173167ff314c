"""The streamed load under ZeRO-3, and what a forward pass leaves in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.launching import run_ranks, succeed

pytestmark = pytest.mark.dist


@pytest.fixture(scope="module", params=[2, 3], ids=lambda n: f"{n} ranks")
def facts(request, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each rank of one launch found."""
    folder = tmp_path_factory.mktemp("sharding")
    arguments = ["tests/dist/workers/sharding.py", str(tiny_llama), str(folder)]
    succeed(run_ranks(arguments, request.param, folder=folder))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(request.param)]


def test_gathered_weights_are_bit_equal_to_a_replicated_load(facts: list[dict]) -> None:
    for fact in facts:
        assert fact["num_compared"] == 21
        assert fact["unequal"] == []


def test_quantization_states_are_bit_equal(facts: list[dict]) -> None:
    for fact in facts:
        assert fact["num_states"] == 14
        assert fact["unequal_states"] == []


def test_a_rank_keeps_its_share_and_no_more(facts: list[dict]) -> None:
    for fact in facts:
        assert fact["kept_elements"] <= fact["whole_elements"] / len(facts) + fact["num_compared"]


def test_logits_equal_and_stay_equal_after_an_evaluation(facts: list[dict]) -> None:
    for fact in facts:
        assert fact["logits_equal"]
        assert fact["logits_equal_after_eval"]


def test_a_forward_pass_frees_what_it_gathered(facts: list[dict]) -> None:
    """Bitsandbytes' own forward, measured beside ours, keeps the whole quantized model."""
    for fact in facts:
        assert fact["live_nf4_bytes_ours"] == 0
        assert fact["live_nf4_bytes_stock"] >= 0.8 * fact["nf4_bytes"]
