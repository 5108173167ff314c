"""No file that names other files leads out of its folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.corpus.built.manifest import shard_path
from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.train.checkpoint.integrity import MANIFEST, defect, read_sealed, seal


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/../../x", "sub/x"])
def test_a_safetensors_index_names_files_of_its_folder_alone(
    tiny_llama: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    shutil.copy(folder / "model.safetensors", tmp_path / "secret.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LopeError, match=r"model\.safetensors\.index\.json"):
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


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "sub/../x", "./x", "sub/..", "..", "."]
)
def test_a_checkpoints_manifest_names_files_of_its_folder_alone(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    seal(folder)
    entry = {"size": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    (folder / MANIFEST).write_text(json.dumps({"format": 1, "files": {name: entry}}))
    assert "bad entry" in str(defect(folder))
    with pytest.raises(LopeError, match="bad entry"):
        read_sealed(folder, name)


@pytest.mark.parametrize("linked", ["sub/state.json", "sub"])
def test_a_checkpoints_file_is_no_link(tmp_path: Path, linked: str) -> None:
    folder = tmp_path / "checkpoint"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "state.json").write_text("secret")
    seal(folder)
    assert read_sealed(folder, "sub/state.json") == b"secret"
    (folder / linked).rename(tmp_path / "secret")
    (folder / linked).symlink_to(tmp_path / "secret")
    assert "is a link" in str(defect(folder))
    with pytest.raises(LopeError, match="is a link"):
        read_sealed(folder, "sub/state.json")


def test_a_corpus_manifest_names_shards_of_its_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "clean-000000.arrow").symlink_to("/etc/passwd")
    for name in ("../x.arrow", "/etc/passwd", "sub/x.arrow", "..", "clean-000000.arrow"):
        with pytest.raises(LopeError, match=r"manifest.* shards/"):
            shard_path(tmp_path, name)
