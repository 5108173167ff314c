"""Every adapter kind, with one and with four micro-batches, recomputing or not, on every engine."""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.baselines import ALL
from support.launching import REPOSITORY, run_ranks, succeed
from support.quick import quick
from support.tiny import tiny_tree

pytestmark = [pytest.mark.dist, pytest.mark.timeout(900)]

WORKER = "tests/dist/workers/adapter_cells.py"


def _losses(
    folder: Path, model: Path, data: Path, zero_stage: int, kinds: tuple[str, ...]
) -> dict[str, list[float]]:
    """Train all cells of some kinds in one launch."""
    tree = tiny_tree(model, data, folder)
    tree["data"]["packing"] = False
    tree["noise"] = {"data": {"rate": 0.1}}
    tree_file, out = folder / "tree.yaml", folder / f"{_name(zero_stage, kinds)}.json"
    tree_file.write_text(yaml.safe_dump(tree, sort_keys=False))
    arguments = [WORKER, str(tree_file), str(out), str(zero_stage), *kinds]
    ranks = 2 if zero_stage else 1
    paths = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    succeed(run_ranks(arguments, ranks, folder=folder, timeout_s=400, environment=paths))
    return json.loads(out.read_text())


def _name(zero_stage: int, kinds: tuple[str, ...]) -> str:
    return f"zero{zero_stage}-{len(kinds)}"


FEW = ("lope_rank", "adalora", "p_tuning")
LAUNCHES = quick([(3, FEW), (0, tuple(ALL)), (2, tuple(ALL)), (3, tuple(ALL))], (3, FEW))
"""ZeRO stage (0: the local engine) and adapter kinds."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cells")


@pytest.fixture(scope="module")
def losses(tiny_llama: Path, alpaca_file: Path, folder: Path):
    """Return a function: ZeRO stage, kinds -> losses of its cells, which are trained once."""
    return cache(partial(_losses, folder, tiny_llama, alpaca_file))


@pytest.mark.parametrize(("zero_stage", "kinds"), LAUNCHES)
def test_losses_depend_on_the_adapter_alone(losses, zero_stage: int, kinds: tuple) -> None:
    local, cells = losses(0, kinds), losses(zero_stage, kinds)
    assert {cell.partition("-")[0] for cell in cells} == {*kinds}
    num_lope = len([kind for kind in kinds if kind.startswith("lope")])
    not_recomputed = 1 if "prefix_tuning" in kinds else 0
    assert len(cells) == 2 * len(kinds) + 2 * num_lope - not_recomputed
    for cell, of_cell in cells.items():
        expected = local[f"{cell.partition('-')[0]}-1-kept"]
        assert of_cell == pytest.approx(expected, rel=1e-5), cell


@pytest.mark.thorough
def test_all_four_cells_of_each_kind_are_trained_under_zero(losses) -> None:
    cells = {*losses(2, tuple(ALL)), *losses(3, tuple(ALL))}
    assert len(cells) == 4 * 9 - 2  # prefix tuning cannot be recomputed


@pytest.mark.parametrize(("zero_stage", "kinds"), LAUNCHES)
def test_adapters_equal_the_local_engines(
    losses, folder: Path, zero_stage: int, kinds: tuple
) -> None:
    losses(0, kinds)
    for cell in losses(zero_stage, kinds):
        tensors = _adapter(folder / _name(zero_stage, kinds) / cell)
        alone = folder / _name(0, kinds) / f"{cell.partition('-')[0]}-1-kept"
        for key, expected in _adapter(alone).items():
            # Pruned singular values too: every rank must have cut the same ones.
            assert tensors[key].eq(0).equal(expected.eq(0)), f"{cell} {key}"
            assert tensors[key].allclose(expected, rtol=1e-3, atol=1e-4), f"{cell} {key}"


def test_singular_values_are_pruned_at_all(losses, folder: Path) -> None:
    losses(3, FEW)
    adapter = _adapter(folder / _name(3, FEW) / "adalora-1-kept")
    pruned = [values for name, values in adapter.items() if "lora_E" in name]
    assert {int((values != 0).sum()) for values in pruned} > {0}


def _adapter(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints/1-only/adapter.safetensors")
