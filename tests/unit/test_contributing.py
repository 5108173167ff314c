"""What CONTRIBUTING shows works when it is copied."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lope_dist.config.load import load_config


@pytest.mark.thorough
def test_the_noise_operation_passes_the_contract(repository: Path, tmp_path: Path) -> None:
    text = (repository / "CONTRIBUTING.md").read_text()
    shown = re.search(r"```python\n# (lope_dist/noise/(\w+)\.py)\n(.*?)```", text, re.DOTALL)
    assert shown is not None
    for part in ("lope_dist", "tests/support", "tests/unit/noise"):
        shutil.copytree(repository / part, tmp_path / part)
    for file in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(repository / file, tmp_path / file)
    (tmp_path / shown[1]).write_text(shown[3])
    contract = "tests/unit/noise/test_noise_contract.py"
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", contract, "-k", shown[2]],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", ended.stdout)[0]) > 10


def test_a_recipe_is_layers_and_own_keys(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "include: [base/model_llama2_7b.yaml, base/model_nf4.yaml, base/train_routed.yaml]\n"
        "output_dir: runs/x\n"
        "data: {path: rows.jsonl}\n"
    )
    assert load_config(path).model.architecture is not None
