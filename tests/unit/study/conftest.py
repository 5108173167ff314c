"""A small study on the tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.tiny import tiny_tree

from lope_dist.study.cells import Study
from lope_dist.study.load import load_study

StudyMaker = Callable[..., Study]


@pytest.fixture
def study_tree(tiny_llama: Path, alpaca_file: Path, tmp_path: Path) -> dict[str, Any]:
    """Return a study of LoPE and HydraLoRA; its recipe lies beside it."""
    recipe = tiny_tree(tiny_llama, alpaca_file, Path("nowhere"))
    recipe["train"].pop("stages")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    return {
        "title": "Tiny",
        "output_dir": str(tmp_path / "study"),
        "recipe": "tiny.yaml",
        "seeds": [1, 2],
        "files": {
            "train": {"source": str(alpaca_file), "rows": [0, 40]},
            "clean": {"source": str(alpaca_file), "rows": [40, 60]},
            "noisy": {"source": "clean", "noise": {"rate": 0.3}},
        },
        "train_file": "train",
        "variants": {
            "hydralora": {"rows": ["all", "none"], "overrides": {"adapter.num_poison": 0}},
            "lope": {"rows": ["masked", "all"], "overrides": {"train.stages.poison.lr": 0.01}},
        },
        "baseline": "hydralora/all",
    }


@pytest.fixture
def make_study(study_tree: dict[str, Any], tmp_path: Path) -> StudyMaker:
    """Return a maker of studies: keys given replace those of the tree."""

    def make(**changes: Any) -> Study:
        path = tmp_path / "tiny_study.yaml"
        path.write_text(yaml.safe_dump(study_tree | changes, sort_keys=False))
        return load_study(path)

    return make
