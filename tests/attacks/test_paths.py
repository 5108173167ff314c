"""No file that names other files leads out of its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.model.checkpoint_files import TensorFiles


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/../../x", "sub/x"])
def test_a_safetensors_index_names_files_of_its_folder_alone(
    tiny_llama: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    shutil.copy(folder / "model.safetensors", tmp_path / "secret.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LopeError, match="names a file outside its folder"):
        TensorFiles(folder)


@pytest.mark.parametrize("name", ["..", "../../x", "a/b", "/etc", "a\\b", ""])
def test_a_stage_names_no_folder_elsewhere(tiny_config, name: str) -> None:
    stages = {name: {"trainable": ["shared_a", "poison_b"]}}
    if name == "..":  # behind a number and a dash it is a name like any other
        checkpoints = Path(tiny_config(train__stages=stages).output_dir) / "checkpoints"
        assert (checkpoints / f"1-{name}").resolve().parent == checkpoints.resolve()
        return
    with pytest.raises(LopeError, match="stage's name"):
        tiny_config(train__stages=stages)
