import pytest

from lope_dist.config.load import validate_config
from lope_dist.core.errors import LopeError


def tree(attention="flash_attention_2", packing=True, micro_batch=2):
    return {
        "output_dir": "out",
        "model": {"name_or_path": "x", "attention": attention},
        "data": {"path": "x.jsonl", "packing": packing},
        "train": {"micro_batch": micro_batch},
    }


def test_flash_attention_packs_one_row():
    """With more rows transformers lets packed examples attend to each other, silently."""
    with pytest.raises(LopeError, match=r"train\.micro_batch = 2 .*set train\.micro_batch=1"):
        validate_config(tree(), "x")
    for good in ({"attention": "sdpa"}, {"packing": False}, {"micro_batch": 1}):
        validate_config(tree(**good), "x")
