"""A stated architecture beside a folder's own `config.json`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.model.build import architecture

TEXT = {"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 2}
GEMMA = {"model_type": "gemma3", "text_config": TEXT, "mm_tokens_per_image": 4}


@pytest.fixture
def stated(tmp_path: Path):
    """Return a function: an architecture stated -> that of a folder with Gemma's `config.json`."""
    (tmp_path / "config.json").write_text(json.dumps(GEMMA))

    def read(values: dict):
        return architecture(ModelConfig(name_or_path=str(tmp_path), architecture=values))

    return read


def test_a_part_of_it_may_be_stated(stated) -> None:
    few = {"model_type": "gemma3", "text_config": {"hidden_size": 64}}
    assert stated(few).text_config.hidden_size == 64


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'gemma3', stated 'llama'"),
        (GEMMA | {"text_config": TEXT | {"hidden_size": 32}}, "text_config.hidden_size is 64"),
    ],
)
def test_another_models_is_told_before_weights_are_read(stated, values: dict, message: str) -> None:
    with pytest.raises(LopeError, match=rf"model\.architecture .*{message}"):
        stated(values)
