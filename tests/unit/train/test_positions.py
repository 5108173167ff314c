"""Rows beyond what a model was made for: refused where it would fail on them, told elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.architectures import SHAPES

from lope_dist.config.load import validate_config
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.side_files import MANIFEST, MANIFEST_FORMAT
from lope_dist.train.check import check_run
from lope_dist.train.premises.preflight import check_length, preflight
from lope_dist.train.premises.table import check_premises
from lope_dist.train.run.folder import has_begun, open_run_folder
from lope_dist.train.session import train


@pytest.fixture
def described(tmp_path: Path):
    """Return a maker of configurations of a tiny model, of 512 positions, that is nowhere."""

    def config(name: str, length: int, shape=(), **adapter: Any) -> RunConfig:
        role = "adapter" if adapter else "normal_b"
        tree = {
            "output_dir": str(tmp_path / "run"),
            "model": {
                "name_or_path": name,
                "architecture": {"model_type": name, **SHAPES[name], **dict(shape)},
                "quantization": "none",
            },
            "adapter": adapter,
            "data": {"path": "rows.jsonl", "max_length": length, "packing": False},
            "train": {"stages": {"one": {"trainable": [role], "lr": 0.01}}},
        }
        return validate_config(tree, "test")

    return config


def checked(config: RunConfig) -> None:
    check_length(config, preflight(config).model)


@pytest.mark.parametrize("name", ["gpt2", "opt", "bart"])
def test_no_row_is_longer_than_a_table_of_positions(described, name: str) -> None:
    checked(described(name, 512))
    with pytest.raises(LopeError, match=r"data\.max_length = 513 .* 512 positions .*at most 512 "):
        checked(described(name, 513))


def test_virtual_tokens_take_positions_too(described) -> None:
    adapter = {"kind": "p_tuning", "encoder": "mlp", "num_virtual_tokens": 12}
    checked(described("gpt2", 500, **adapter))
    with pytest.raises(LopeError, match=r"adapter\.num_virtual_tokens = 12 .*at most 500 "):
        checked(described("gpt2", 501, **adapter))


def test_rows_longer_than_a_rotary_model_was_made_for_are_told(described) -> None:
    def told(name: str, length: int) -> str | None:
        config = described(name, length)
        return check_premises(preflight(config), config).positions

    assert told("llama", 512) is None
    assert (told("llama", 513) or "").startswith("data.max_length = 513 is more than the 512 ")
    assert told("mpt", 4096) is None  # it has no positions


def test_a_run_that_has_begun_is_told_of_its_length_and_goes_on(described, capsys) -> None:
    for config in (described("gpt2", 513), described("llama", 513, DYNAMIC)):
        shutil.rmtree(config.output_dir, ignore_errors=True)
        with pytest.raises(LopeError, match="than the 512"):
            check_run(config, has_data=False, reads_rows=False)
        open_run_folder(config, resume=False)
        check_run(config, has_data=False, reads_rows=False)
        assert "than the 512" in capsys.readouterr().err
        with pytest.raises(LopeError, match="is not a local folder"):
            train(config, resume=True)  # there is no such tokenizer
        manifest = {"format": MANIFEST_FORMAT, "starts": []}
        (Path(config.output_dir) / MANIFEST.name).write_text(json.dumps(manifest))
        assert not has_begun(Path(config.output_dir)), "refused before its first step"


FACTORS = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
LONG = {
    "original_max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, **FACTORS},
}
DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}


def _with(config: RunConfig, *, packing: bool | str, rows: int) -> RunConfig:
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"packing": packing}),
            "train": config.train.model_copy(update={"micro_batch": rows}),
        }
    )


@pytest.mark.parametrize(("packing", "rows"), [(False, 2), (True, 1), ("auto", 2)])
def test_no_example_takes_the_long_positions_for_those_beside_it(described, packing, rows) -> None:
    checked(_with(described("phi3", 64, LONG), packing=packing, rows=rows))
    refusal = r"data\.max_length = 65 is more than the 64 .*longrope.*, or data\.packing=false"
    with pytest.raises(LopeError, match=refusal):
        checked(_with(described("phi3", 65, LONG), packing=packing, rows=rows))


def test_an_example_alone_has_the_positions_of_its_own_length(described) -> None:
    checked(_with(described("phi3", 512, LONG), packing=False, rows=1))


def test_dynamic_positions_stay_as_the_longest_example_left_them(described) -> None:
    alone = {"packing": False, "rows": 1}
    checked(_with(described("llama", 512, DYNAMIC), **alone))
    with pytest.raises(LopeError, match=r"more than the 512 .*rope_type dynamic.* than that\."):
        checked(_with(described("llama", 513, DYNAMIC), **alone))
    layers = {"layer_types": ["sliding_attention", "full_attention"]}
    of_a_kind = {"full_attention": DYNAMIC["rope_parameters"]}
    of_a_kind["sliding_attention"] = {"rope_type": "default", "rope_theta": 1e4}
    with pytest.raises(LopeError, match="rope_type dynamic"):
        checked(described("gemma3_text", 513, layers | {"rope_parameters": of_a_kind}))
