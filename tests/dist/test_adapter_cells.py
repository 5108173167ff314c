"""Every adapter kind, with one and with four micro-batches, recomputing or not, on every engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.launching import REPOSITORY, run_ranks, succeed
from support.tiny import tiny_tree

pytestmark = [pytest.mark.dist, pytest.mark.timeout(900)]

WORKER = "tests/dist/workers/adapter_cells.py"


def _losses(folder: Path, model: Path, data: Path, zero_stage: int) -> dict[str, list[float]]:
    """Train all cells in one launch."""
    tree = tiny_tree(model, data, folder)
    tree["data"]["packing"] = False
    tree["noise"] = {"data": {"rate": 0.1}}
    tree_file, out = folder / "tree.yaml", folder / f"zero{zero_stage}.json"
    tree_file.write_text(yaml.safe_dump(tree, sort_keys=False))
    arguments = [WORKER, str(tree_file), str(out), str(zero_stage)]
    ranks = 2 if zero_stage else 1
    paths = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    succeed(run_ranks(arguments, ranks, folder=folder, timeout_s=400, environment=paths))
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def found(
    tiny_llama: Path, alpaca_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[int, dict[str, list[float]]]]:
    folder = tmp_path_factory.mktemp("cells")
    return folder, {stage: _losses(folder, tiny_llama, alpaca_file, stage) for stage in (0, 2, 3)}


def test_losses_depend_on_the_adapter_alone(found) -> None:
    _, losses = found
    kinds = {cell.partition("-")[0] for cell in losses[0]}
    assert len(kinds) == 9
    assert len({*losses[2], *losses[3]}) == 4 * len(kinds) - 2, "two cells of a kind on either"
    for stage, cells in losses.items():
        assert len(cells) == 4 * 2 + 2 * 7 - 1  # prefix tuning cannot be recomputed
        for cell, own in cells.items():
            wanted = losses[0][f"{cell.partition('-')[0]}-1-kept"]
            assert own == pytest.approx(wanted, rel=1e-5), f"{cell} under ZeRO-{stage}"


def test_adapters_equal_the_local_engines(found) -> None:
    folder, losses = found
    for stage, cells in losses.items():
        for cell in cells:
            tensors = _adapter(folder, stage, cell)
            kind = cell.partition("-")[0]
            for key, wanted in _adapter(folder, 0, f"{kind}-1-kept").items():
                # Pruned singular values too: every rank must have cut the same ones.
                assert tensors[key].eq(0).equal(wanted.eq(0)), f"{stage} {cell} {key}"
                assert tensors[key].allclose(wanted, rtol=1e-3, atol=1e-4), f"{stage} {cell} {key}"
    pruned = [t for name, t in _adapter(folder, 3, "adalora-1-kept").items() if "lora_E" in name]
    assert {int((values != 0).sum()) for values in pruned} > {0}


def _adapter(folder: Path, zero_stage: int, cell: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"zero{zero_stage}" / cell / "checkpoints/1-only/adapter.safetensors")
