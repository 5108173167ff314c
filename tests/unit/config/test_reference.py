"""docs/configuration.md: up to date, and nothing of the schema is missing in it."""

import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from lope_dist.config.baselines import AnyAdapterConfig
from lope_dist.config.load import validate_config
from lope_dist.config.loss import LossConfig
from lope_dist.config.noise import NoiseConfig
from lope_dist.config.reference import reference

PAGE = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"


def test_committed_page_is_what_the_schema_says() -> None:
    assert PAGE.read_text() == reference(), "run `make docs` and commit docs/configuration.md"


def test_every_key_of_a_full_run_has_a_row() -> None:
    tree = validate_config(
        {
            "output_dir": "out",
            "model": {"name_or_path": "x"},
            "data": {"sources": [{"path": "x.jsonl"}], "validation": {"share": 0.1}},
            "train": {
                "stages": {
                    "<name>": {"trainable": ["normal_b", "router"], "groups": {"router": {}}}
                },
                "evaluate": {"every_steps": 1},
                "early_stopping": {},
            },
        },
        "test",
    ).model_dump(mode="json")
    tree["train"]["stages"]["<name>"]["groups"] = {"<role>": {"lr": 1, "weight_decay": 0}}
    keys = set(re.findall(r"^\| `([^`]+)`", reference(), re.MULTILINE))
    mappings = {"train.stages", "train.stages.<name>.groups", "data.sources"}
    mappings |= {"data.validation", "train.early_stopping"}
    for kind in ("adalora", "p_tuning", "prefix_tuning"):
        adapter: TypeAdapter = TypeAdapter(AnyAdapterConfig)
        tree["adapter"] |= adapter.validate_python({"kind": kind}).model_dump(mode="json")
    for kind in ("truncated", "generalized", "mixture", "label_smoothing"):
        loss: TypeAdapter = TypeAdapter(LossConfig)
        settings = loss.validate_python({"kind": kind}).model_dump(mode="json")
        tree["train"]["stages"]["<name>"]["loss"] |= settings
    assert keys == leaves(tree) | mappings


def leaves(tree: dict, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in tree.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            found |= leaves(value[0], f"{prefix}{key}[].")
        elif isinstance(value, dict) and value:
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found.add(prefix + key)
    return found


@pytest.mark.parametrize(
    ("key", "cells"),
    [
        ("output_dir", ["string", "required"]),
        ("adapter.rank", ["integer, ≥ 1", "`4`"]),
        ("adapter.dropout", ["number, ≥ 0, < 1", "`0.05`"]),
        ("adapter.router", ["`rank` or `input`", "`rank`"]),
        ("adapter.compensation.top_k", ["integer or `null`, ≥ 0", "`null`"]),
        ("noise.text.rate", ["number, ≥ 0, ≤ 1", "`0.05`"]),
        ("noise.data.rate", ["number, ≥ 0, ≤ 1", "`0.0`"]),
        ("data.path", ["string, list of string or `null`", "`null`"]),
        ("data.columns", ["mapping", "`{}`"]),
        ("data.sources", ["list of sections", "`[]`"]),
        ("data.sources[].weight", ["number, > 0", "`1.0`"]),
        ("train.stages", ["mapping, at least 1", "the paper's two"]),
        ("train.stages.<name>.trainable", ["list of role, at least 1", "required"]),
    ],
)
def test_rows_tell_type_bounds_and_default(key: str, cells: list[str]) -> None:
    row, *_ = (line for line in reference().splitlines() if line.startswith(f"| `{key}` |"))
    assert row.split(" | ")[1:3] == cells


def test_data_noise_stays_off_when_only_its_form_is_given() -> None:
    assert NoiseConfig.model_validate({"data": {"unit": "example", "strength": 0.3}}).data.rate == 0
