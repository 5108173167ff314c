"""Base models whose files are damaged, or say what cannot be."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from faults.base import case
from faults.commands import lope, refused, works
from faults.runs import assert_tells, train, write_recipe
from safetensors.torch import load_file, save_file

GROUP = "Base models"
QUANTIZED, PLAIN = "model.layers.1.mlp.up_proj.weight", "lm_head.weight"


def _own_model(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """Return a recipe and the model of its own, to harm."""
    own = folder / "model"
    recipe = write_recipe(folder, model__name_or_path=str(own), **changes)
    shutil.copytree(folder.parent / "inputs" / "model", own)
    return recipe, own


def _set(model: Path, name: str, index: int, value: float) -> None:
    path = model / "model.safetensors"
    tensors = load_file(path)
    tensors[name].view(-1)[index] = value
    save_file(tensors, path, metadata={"format": "pt"})


@case(
    "NaN in a quantized weight",
    group=GROUP,
    states="One NaN among the base model's weights: tensor, file and element are named before "
    "step 0, and no other cause is blamed.",
)
def _nan(folder: Path) -> dict[str, Any]:
    recipe, model = _own_model(folder, engine__kind="local")
    _set(model, QUANTIZED, 4321, float("nan"))
    told = (str(model / "model.safetensors"), f"element 4321 of tensor '{QUANTIZED}' is nan")
    refused("train", recipe, told=told)
    assert not (folder / "run" / "metrics.jsonl").exists()
    return {}


@case(
    "infinity in the head",
    group=GROUP,
    states="The same of infinity in a weight that is not quantized.",
)
def _inf(folder: Path) -> dict[str, Any]:
    recipe, model = _own_model(folder, engine__kind="local")
    _set(model, PLAIN, 7, float("-inf"))
    refused("train", recipe, told=(f"element 7 of tensor '{PLAIN}' is -inf",))
    return {}


@case(
    "NaN in the part of one rank",
    group=GROUP,
    states="Under ZeRO-3, where each rank reads its part alone: the rank that has it names tensor "
    "and file, the other repeats it, and both end.",
)
def _nan_sharded(folder: Path) -> dict[str, Any]:
    recipe, model = _own_model(folder)
    index = 128 * 64 - 1
    _set(model, QUANTIZED, index, float("nan"))
    ended = train(recipe, 2)
    assert [rank.status for rank in ended] == [2, 2], ended[0].output[-3000:]
    for rank in ended:
        assert_tells(rank, f"element {index} of tensor '{QUANTIZED}' is nan")
    return {}


HEADERS: dict[str, Callable[[dict], Any]] = {
    "a list": lambda h: [h],
    "nested": lambda h: None,
    "no dtype": lambda h: _entry(h, dtype=None),
    "a list as dtype": lambda h: _entry(h, dtype=["F32"]),
    "a foreign dtype": lambda h: _entry(h, dtype="F8_E4M3"),
    "no shape": lambda h: _entry(h, shape=None),
    "a float in the shape": lambda h: _entry(h, shape=[258.0, 64]),
    "a negative shape": lambda h: _entry(h, shape=[-258, -64]),
    "a huge shape": lambda h: _entry(h, shape=[1 << 62, 1 << 62]),
    "no offsets": lambda h: _entry(h, data_offsets=None),
    "three offsets": lambda h: _entry(h, data_offsets=[0, 1, 2]),
    "negative offsets": lambda h: _entry(h, data_offsets=[-8, 8]),
    "descending offsets": lambda h: _entry(h, data_offsets=[8, 0]),
    "offsets beyond the file": lambda h: _entry(h, data_offsets=[0, 1 << 40]),
    "two tensors over one range": lambda h: h | {"copy": h[PLAIN]},
    "a tensor that is text": lambda h: h | {PLAIN: "text"},
    "another name": lambda h: {("x" if k == PLAIN else k): v for k, v in h.items()},
}


def _entry(header: dict, **changes: Any) -> dict:
    return header | {PLAIN: header[PLAIN] | changes}


def _refused(folder: Path, told: tuple[str, ...] = ()) -> None:
    """Assert that the model is refused: each time in a folder of a run that is new."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    refused("train", folder / "recipe.yaml", told=told)


@case(
    "headers that cannot be",
    group=GROUP,
    states="17 malformed safetensors headers, and a length that is none: one sentence each.",
)
def _headers(folder: Path) -> dict[str, Any]:
    _, model = _own_model(folder, engine__kind="local")
    path = model / "model.safetensors"
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header, rest = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    for name, change in HEADERS.items():
        text = b"[" * 50_000 if name == "nested" else json.dumps(change(header)).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + rest)
        _refused(folder)
    for number in (0, 7, 1 << 40, (1 << 64) - 1):
        path.write_bytes(struct.pack("<Q", number) + whole[8:])
        _refused(folder, told=(str(path),))
    for size in (0, 5, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        _refused(folder, told=(str(path),))
    return {"headers": len(HEADERS) + 9}


@case(
    "an index that lies",
    group=GROUP,
    states="An index that names files that are not there, files outside, or nothing at all: one "
    "sentence; a tensor in two shards is told.",
)
def _index(folder: Path) -> dict[str, Any]:
    recipe, model = _own_model(folder, engine__kind="local")
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = sorted(tensors)
    first, second = names[:10], names[10:]
    index = model / "model.safetensors.index.json"
    shards = {"a.safetensors": first, "b.safetensors": second}
    for shard, held in shards.items():
        save_file({n: tensors[n] for n in held}, model / shard, metadata={"format": "pt"})
    right = {n: shard for shard, held in shards.items() for n in held}
    for wrong in (
        {},
        [],
        {"weight_map": {}},
        {"weight_map": []},
        {"weight_map": right | {names[0]: "absent.safetensors"}},
        {"weight_map": right | {names[0]: "../model.safetensors"}},
        {"weight_map": right | {names[0]: 7}},
        {"weight_map": right | {names[0]: "a\0b"}},
        {"weight_map": right | {names[0]: ".."}},
        {"weight_map": dict.fromkeys(names, "a.safetensors")},
    ):
        index.write_text(json.dumps(wrong))
        _refused(folder)
    index.write_text(json.dumps({"weight_map": right}))
    twice = {n: tensors[n] for n in [*second, first[0]]}
    save_file(twice, model / "b.safetensors", metadata={"format": "pt"})
    shutil.rmtree(folder / "run", ignore_errors=True)
    works("train", recipe, told=("more than one file",))
    return {"wrong indices": 10}


@case(
    "a damaged tokenizer or config.json",
    group=GROUP,
    states="`tokenizer.json`, `tokenizer_config.json` or `config.json` cut, empty, of NULs or of "
    "another shape: one sentence each.",
)
def _tokenizer(folder: Path) -> dict[str, Any]:
    recipe, model = _own_model(folder, engine__kind="local")
    tried = 0
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        content = (model / name).read_bytes()
        for text in (content[: len(content) // 2], b"", bytes(100), b"[]", b'"x"', b"\xff", b"7"):
            (model / name).write_bytes(text)
            ended = lope("check", recipe)
            assert "Traceback" not in ended.said, (name, text[:20], ended.said[-2000:])
            assert ended.status in (0, 2), ended.said[-2000:]
            tried += 1
        (model / name).write_bytes(content)
    works("check", recipe)
    return {"files": tried}


@case(
    "scales of a packed model that are no numbers",
    group=GROUP,
    states="A model that was saved in NF4, with NaN among its scales: tensor and file are named.",
)
def _packed(folder: Path) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    recipe, model = _own_model(folder, engine__kind="local")
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    stock = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, quantization_config=nf4
    )
    stock.save_pretrained(model)
    _set(model, f"{QUANTIZED}.nested_absmax", 0, float("nan"))
    told = (f"element 0 of tensor '{QUANTIZED}.nested_absmax' is nan",)
    refused("train", recipe, told=told)
    return {}
