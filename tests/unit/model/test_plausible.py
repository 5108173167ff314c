from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.model.build import architecture, load_tokenizer
from lope_dist.model.plausible import refuse_endless


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_hidden_layers", 10**7), ("num_local_experts", 10**4000), ("n_layer", float("nan"))],
)
def test_counts_that_would_be_built_for_hours_are_refused(
    tiny_llama: Path, tiny_config, tmp_path: Path, key: str, value: float
) -> None:
    stated = {"model_type": "llama", "num_hidden_layers": 2} | {key: value}
    with pytest.raises(LopeError, match=rf"model\.architecture\.{key} = .* 4096"):
        architecture(tiny_config(model__architecture=stated).model)
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    tree = json.loads((folder / "config.json").read_text()) | {"inner": {key: 10**7}}
    (folder / "config.json").write_text(json.dumps(tree))
    with pytest.raises(LopeError, match=rf"config\.json\.inner\.{key} = 10000000"):
        architecture(tiny_config(model__name_or_path=str(folder)).model)


def test_what_models_have_passes() -> None:
    refuse_endless(
        {"num_hidden_layers": 126, "n_routed_experts": 512, "max_window_layers": 1e9}, ""
    )


@pytest.mark.parametrize("content", ["", "{", "[]", '{"num_hidden_layers": ' + "1" * 5000 + "}"])
def test_a_damaged_description_of_a_model_is_told(
    tiny_llama: Path, tiny_config, tmp_path: Path, content: str
) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    (folder / "config.json").write_text(content)
    with pytest.raises(LopeError, match=r"config\.json "):
        architecture(tiny_config(model__name_or_path=str(folder)).model)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_truncated_tokenizer_is_told_in_a_sentence(
    tiny_llama: Path, tiny_config, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    content = (folder / name).read_bytes()
    for part in (content[: len(content) // 2], b"\0" * 99, b"", b"[]"):
        (folder / name).write_bytes(part)
        with pytest.raises(LopeError, match=r"copy tokenizer\.json") as told:
            load_tokenizer(tiny_config(model__name_or_path=str(folder)).model)
        assert "\n" not in str(told.value)
