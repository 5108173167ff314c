"""A base that each rank keeps a part of, under stock peft and Hugging Face's Trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.launching import run_ranks, succeed
from support.tiny import save_tiny_llama

pytestmark = [pytest.mark.dist, pytest.mark.timeout(900)]


def test_two_ranks_of_a_stock_trainer_equal_one_process_of_stock_bitsandbytes(
    tmp_path: Path,
) -> None:
    save_tiny_llama(tmp_path / "model")
    facts, adapters = {}, {}
    for kind, num in (("stock", 1), ("sharded", 2)):
        arguments = ["tests/dist/workers/stock_trainer.py", kind, tmp_path / "model", tmp_path]
        succeed(run_ranks(list(map(str, arguments)), num, folder=tmp_path, timeout_s=300))
        facts[kind] = json.loads((tmp_path / f"{kind}.json").read_text())
        adapters[kind] = load_file(tmp_path / kind / "adapter" / "adapter_model.safetensors")
    stock, sharded = facts["stock"], facts["sharded"]
    assert "no process group yet" in sharded["without_a_group"]
    assert "zero_quantized_nontrainable_weights converts" in sharded["converting"]
    assert sharded["share"] == pytest.approx(0.5, abs=0.01)
    assert sharded["trainable"] == stock["trainable"] == 2 * 4 * (2 * 64 + 64 + 32)
    assert len(stock["losses"]) == 6
    assert stock["losses"][-1] != stock["losses"][0]
    assert sharded["losses"] == pytest.approx(stock["losses"], abs=2e-4)
    assert adapters["sharded"].keys() == adapters["stock"].keys()
    for name, value in adapters["stock"].items():
        assert value.abs().sum() > 0
        assert float((adapters["sharded"][name] - value).abs().max()) < 1e-4, name
