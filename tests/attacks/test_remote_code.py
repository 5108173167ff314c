"""A model's own Python code runs only when its name is given for that, and never by surprise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.model.build import architecture, load_tokenizer
from lope_dist.model.source import model_folder
from lope_dist.train.session import train

CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class OwnConfig(LlamaConfig): model_type = "own"
class OwnModel(LlamaForCausalLM): config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast): pass
"""


@pytest.fixture
def model_with_code(tiny_llama: Path, tmp_path: Path, mark: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    for name, values in (
        (
            "config.json",
            {
                "model_type": "own",
                "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
            },
        ),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}},
        ),
    ):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def test_code_in_a_model_folder_is_not_run(tiny_config, model_with_code: Path) -> None:
    with pytest.raises(LopeError, match=r"config\.json"):
        train(tiny_config(model__name_or_path=str(model_with_code)))


def test_a_tokenizer_of_its_own_is_not_run(tiny_config, model_with_code: Path) -> None:
    config = json.loads((model_with_code / "config.json").read_text())
    config["model_type"] = "llama"
    del config["auto_map"]
    (model_with_code / "config.json").write_text(json.dumps(config))
    load_tokenizer(tiny_config(model__name_or_path=str(model_with_code)).model)


def test_trust_in_another_name_is_refused(tiny_config, model_with_code: Path) -> None:
    for trusted in ("true", "someone/else"):
        with pytest.raises(LopeError, match=r"model\.trust_remote_code = .*model\.name_or_path"):
            tiny_config(model__name_or_path=str(model_with_code), model__trust_remote_code=trusted)


def test_code_of_the_hub_needs_a_commit(tiny_config) -> None:
    changes = {"model__name_or_path": "a/b", "model__trust_remote_code": "a/b"}
    for revision in (None, "main", "abc123"):
        with pytest.raises(LopeError, match="give its 40-digit hash"):
            model_folder(tiny_config(**changes, model__revision=revision).model)


def test_code_asked_for_by_name_does_run(tiny_config, model_with_code: Path, mark: Path) -> None:
    """The other half: what the tests above forbid would have worked."""
    name = str(model_with_code)
    config = tiny_config(model__name_or_path=name, model__trust_remote_code=name)
    assert architecture(config.model).model_type == "own"
    assert mark.exists()
    mark.unlink()
