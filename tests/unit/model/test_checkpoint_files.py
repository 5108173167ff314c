"""Which files of a folder the weights are read from."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import LlamaForCausalLM

from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.model.hub import INDEX, SINGLE


def test_a_single_file_is_read_before_an_index(tiny_llama: Path, tmp_path: Path) -> None:
    """As `from_pretrained` does it, so that both read the same weights."""
    sharded = LlamaForCausalLM.from_pretrained(tiny_llama)
    sharded.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / INDEX).is_file()
    shutil.copy(tiny_llama / SINGLE, tmp_path)
    for shard in tmp_path.glob("model-*.safetensors"):
        shard.unlink()
    files = TensorFiles(tmp_path)
    assert files.names()
    files.close()
