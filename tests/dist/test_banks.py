"""Experts in banks and lists, `Conv1D` and other layers on two ranks, against one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from support.banks import LISTS, MODELS, save_model
from support.launching import REPOSITORY, run_ranks, succeed
from support.quick import quick
from support.tiny import tiny_tree

pytestmark = [pytest.mark.dist, pytest.mark.timeout(900)]

DEEP = {"num_hidden_layers": 8, "intermediate_size": 512}


LAUNCHES = {
    "a kind of bank": [
        "mixtral-nf4-kept",
        "mixtral-nf4-recomputed",
        "deep-nf4-kept",
        "deep-none-kept",
        "switch_transformers-nf4-kept",
    ],
    "each kind of bank": [],
}
"""The cells of a launch; none named are all."""


@pytest.fixture(scope="module", params=quick(LAUNCHES, "a kind of bank"))
def found(request, alpaca_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict]:
    """What the cells gave, in one launch an engine."""
    cells = LAUNCHES[request.param]
    folder = tmp_path_factory.mktemp("banks")
    for name in (*MODELS, *LISTS):
        save_model(folder / name, name)
    save_model(folder / "deep", "mixtral", **DEEP)
    tree = tiny_tree(folder, alpaca_file, folder)
    tree["data"]["packing"] = False
    tree_file, facts = folder / "tree.yaml", {}
    tree_file.write_text(yaml.safe_dump(tree, sort_keys=False))
    paths = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    for zero_stage, ranks in ((0, 1), (3, 2)):
        out = folder / f"zero{zero_stage}.json"
        arguments = ["tests/dist/workers/bank_cells.py", str(tree_file), str(out), str(zero_stage)]
        arguments += cells
        succeed(run_ranks(arguments, ranks, folder=folder, timeout_s=400, environment=paths))
        facts[zero_stage] = json.loads(out.read_text())
        assert len(facts[zero_stage]) == (len(cells) or 10)
    return facts


def test_losses_equal_the_local_engines(found: dict[int, dict]) -> None:
    for cell, facts in found[3].items():
        wanted = found[0][cell]["losses"]
        assert len(facts["losses"]) == (10 if cell == "mixtral-nf4-kept" else 3)
        assert facts["losses"] == pytest.approx(wanted, rel=1e-5), cell
    recomputed, kept = (found[3][f"mixtral-nf4-{way}"]["losses"] for way in ("recomputed", "kept"))
    assert recomputed == pytest.approx(kept[:3], rel=1e-6)


def test_the_ranks_share_the_banks_and_gather_one_at_a_time(found: dict[int, dict]) -> None:
    """Half of what one process holds, and of eight banks one gathered, another on its way."""
    for quantization in ("nf4", "none"):
        one, two = (found[stage][f"deep-{quantization}-kept"] for stage in (0, 3))
        assert one["modules"] == two["modules"] == 8
        assert two["peak"] <= one["peak"] * (1 / 2 + 2 / 8)


def test_a_quantized_bank_takes_an_eighth_of_its_float32_bytes(found: dict[int, dict]) -> None:
    packed, plain = (found[0][f"deep-{kind}-kept"]["peak"] for kind in ("nf4", "none"))
    assert packed <= plain * (1 / 8 + 1 / 64)
