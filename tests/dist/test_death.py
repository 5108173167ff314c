"""A rank that is killed ends the others soon, and they name it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from support.launching import Rank, run_ranks
from support.quick import quick
from support.tiny import tiny_tree

pytestmark = [pytest.mark.dist, pytest.mark.timeout(900)]


def _run(tiny_llama: Path, data: Path, folder: Path, victim: int, moment: str) -> list[Rank]:
    tree = tiny_tree(tiny_llama, data, folder / "run")
    tree["engine"] = {"kind": "deepspeed", "zero_stage": 3, "timeout_s": 100}
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree, sort_keys=False))
    arguments = ["tests/dist/workers/dies.py", str(recipe), str(folder / "run")]
    return run_ranks([*arguments, str(victim), moment], 3, folder=folder, is_warm=False)


def _time(pattern: str, output: str) -> float:
    found = re.search(pattern + r" at ([\d.]+)", output)
    assert found, output[-3000:]
    return float(found.group(1))


@pytest.mark.parametrize(
    ("victim", "moment"),
    quick([(0, "load"), (1, "load"), (2, "step")], (2, "step")),
)
def test_the_others_end_within_ten_seconds_and_name_it(
    tiny_llama: Path, alpaca_file: Path, tmp_path: Path, victim: int, moment: str
) -> None:
    ended = _run(tiny_llama, alpaca_file, tmp_path, victim, moment)
    died = _time("dies", ended[victim].output)
    assert ended[victim].status == -9
    for rank, other in enumerate(ended):
        if rank != victim:
            assert other.status == 69, other.output[-3000:]
            assert re.search(rf"error: .*Rank {victim} \(process \d+ on ", other.output)
            assert _time("ended", other.output) - died < 10
