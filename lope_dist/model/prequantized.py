"""NF4 weights as bitsandbytes saves them, the way the hub holds quantized models.

X.weight                                  packed, two weights a byte, in any storage dtype
X.weight.absmax                           scales: uint8 if nested, else float32
X.weight.quant_map                        NF4's 16 values
X.weight.nested_absmax, .nested_quant_map what turns the uint8 scales into float32
X.weight.quant_state.bitsandbytes__nf4    JSON as uint8: type, block size, shape, offset
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from typing import Any

import torch
from transformers import PretrainedConfig

from lope_dist.core.errors import LopeError
from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.model.finite import read_finite
from lope_dist.model.nf4 import NESTED_BLOCK, NestedScales, PackedWeight, nf4_code
from lope_dist.model.nf4_layout import BLOCK
from lope_dist.model.origin import Origin

_STATE = ".quant_state.bitsandbytes__"
_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")


def forget_packing(arch: PretrainedConfig) -> None:
    """Drop from an architecture how its weights are packed: the loader sees NF4 in the files.

    Raises:
        LopeError: they are quantized otherwise, which may change what plain weights compute too.
    """
    for part in (arch, arch.get_text_config()):
        settings = getattr(part, "quantization_config", None) or {}
        is_ours = settings.get("load_in_4bit") or settings.get("load_in_8bit")
        method = settings.get("quant_method", "bitsandbytes" if is_ours else None)
        if settings and method != "bitsandbytes":
            raise LopeError(
                f"model.name_or_path: the weights of this {arch.model_type} model are for "
                f"{method} (quantization_config in its config.json), and only NF4 of bitsandbytes "
                "and weights that are not quantized are read; take a 16-bit checkpoint of the "
                "model."
            )
        vars(part).pop("quantization_config", None)


def companions(name: str, available: set[str]) -> set[str]:
    """Return the tensors that describe how ``name`` is packed; none if it is not packed."""
    described = {name + part for part in (*_PARTS, f"{_STATE}nf4", f"{_STATE}fp4")}
    return described & available


def misfits(origin: Origin, packed: PackedWeight, files: TensorFiles) -> Iterator[str]:
    """Yield what keeps a packed weight from being used as the layer's."""
    if origin.recipe.converter is not None:
        yield (
            f"{origin} is packed in the files, where each tensor has scales of its own, and cannot "
            "be rearranged; load the unquantized model, which is quantized while it is read"
        )
        return
    name, available = origin.names[0], files.names()
    if f"{name}{_STATE}fp4" in available:
        yield f"{name} is quantized as fp4; only nf4 can be loaded"
        return
    if f"{name}{_STATE}nf4" not in available:
        yield f"missing {name}{_STATE}nf4"
        return
    state = _state(name, files)
    if state is None:
        yield f"{name}{_STATE}nf4 is not JSON"
        return
    has_nested = "nested_offset" in state
    if has_nested != packed.layout.nested:
        yield (
            f"{name} was packed {'with' if has_nested else 'without'} double quantization; set "
            f"model.double_quantization={'true' if has_nested else 'false'}"
        )
        return
    stated = {"quant_type": "nf4", "blocksize": BLOCK}
    if has_nested:
        stated["nested_blocksize"] = NESTED_BLOCK
    for key, value in stated.items():
        if state.get(key) != value:
            yield f"{name} has {key} {state.get(key)!r}; only {value!r} can be loaded"
    offset = state.get("nested_offset", 0.0)
    if isinstance(offset, bool) or not isinstance(offset, int | float) or not isfinite(offset):
        yield f"{name} has nested_offset {offset!r}, which is no finite number"
    shape = list(packed.shape)
    if state.get("shape") != shape:
        yield f"{name} has shape {state.get('shape')}, not {shape}"
        return
    yield from _part_misfits(name, packed, files)


def entries_for(left: Sequence[str], packed: Iterable[str]) -> list[str]:
    """Return few entries of `model.skip_modules` that name some weights and none of the packed."""
    forbidden = {entry for name in packed for entry in _entries(name)}
    counts = Counter(entry for name in left for entry in _entries(name))
    chosen: list[str] = []
    for name in left:
        entries = _entries(name)
        if not entries & set(chosen):
            chosen.append(
                max(entries - forbidden, key=lambda each: (counts[each], -len(each), each))
            )
    return chosen


def _entries(name: str) -> set[str]:
    """Return the dotted parts of a weight's name that name a module the weight is in."""
    modules = name.split(".")[:-1]
    return {
        ".".join(modules[start:end])
        for end in range(1, len(modules) + 1)
        for start in range(end)
        if not modules[start].isdigit()
    }


def nested_scales(name: str, files: TensorFiles, device: torch.device) -> NestedScales:
    """Read what every rank keeps of a nested weight's statistics.

    Raises:
        LopeError: one of them is NaN or infinite.
    """
    state = _state(name, files)
    assert state is not None
    absmax, code = (
        read_finite(files, key, 0, files.shape(key)[0], torch.float32).to(device)
        for key in (f"{name}.nested_absmax", f"{name}.nested_quant_map")
    )
    return NestedScales(absmax, code, torch.tensor(float(state["nested_offset"]), device=device))


def _part_misfits(name: str, packed: PackedWeight, files: TensorFiles) -> Iterator[str]:
    layout = packed.layout
    if layout.numel % BLOCK:
        yield f"{name} has {layout.numel} weights, no multiple of {BLOCK}"
        return
    itemsize = files.dtype(name).itemsize
    length = layout.packed_bytes // itemsize
    if files.shape(name) not in ((length, 1), (1, length), (length,)):
        yield f"{name} has packed shape {list(files.shape(name))}, not {[length, 1]}"
    expected = {
        ".absmax": (layout.num_blocks, torch.uint8 if layout.nested else torch.float32),
        ".quant_map": (16, torch.float32),
    }
    if layout.nested:
        expected[".nested_absmax"] = (-(-layout.num_blocks // NESTED_BLOCK), torch.float32)
        expected[".nested_quant_map"] = (256, torch.float32)
    for part, (numel, dtype) in expected.items():
        key = name + part
        if key not in files.names():
            yield f"missing {key}"
        elif files.shape(key) != (numel,) or files.dtype(key) != dtype:
            actual = f"{list(files.shape(key))} of {files.dtype(key)}"
            yield f"{key} is {actual}, not {[numel]} of {dtype}"
        elif part == ".quant_map":
            values = files.read(key, 0, 16)
            if not torch.allclose(values, nf4_code(values.device), atol=1e-6):
                yield f"{key} does not hold NF4's 16 values"


def _state(name: str, files: TensorFiles) -> dict[str, Any] | None:
    key = f"{name}{_STATE}nf4"
    raw = files.read_bytes(key, 0, files.shape(key)[0] * files.dtype(key).itemsize)
    try:
        state = json.loads(bytes(raw.tolist()))
    except ValueError:
        return None
    return state if isinstance(state, dict) else None
