"""Safetensors -> the model's parameters, each rank reading just what it keeps.

    file (flat tensor)   |-----------------------------------------|
    rank 1 of 3 keeps                  |-------------|
    widened to blocks of 64           |===============|   read, quantized, cut to the span

The scales of NF4's double quantization share one offset, the mean over the whole tensor,
so ranks exchange their scales (one float for 64 weights) and each computes the same state.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lope_dist.core.errors import LopeError
from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.model.nf4 import (
    BLOCK,
    NF4Linear,
    packed_parameter,
    quant_state,
    quantize_flat,
    values_per_element,
)
from lope_dist.model.placement import Placement

Owner = tuple[nn.Module, str]


def load_weights(
    model: nn.Module,
    files: TensorFiles,
    placement: Placement,
    dtype: torch.dtype,
    nested: bool,
    progress: bool,
) -> None:
    """Fill a model built on the meta device.

    Collective: yes, where the placement shards.

    Raises:
        LopeError: tensors that are missing, unexpected or of another shape, all listed.
    """
    tied = list(_parameters_with_owners(model))
    _check_names(model, files, tied)
    for names, owners in tqdm(
        tied, desc="Loading weights", unit="tensor", disable=not progress, mininterval=1.0
    ):
        name = next(n for n in names if n in files.names())
        layer, attribute = owners[0]
        if isinstance(layer, NF4Linear) and attribute == "weight":
            parameter = _load_quantized(name, layer, files, placement, dtype, nested)
        else:
            parameter = _load_plain(name, files, placement, dtype)
        for module, attr in owners:
            module.register_parameter(attr, parameter)
    for module in model.modules():
        for key, buffer in module.named_buffers(recurse=False):
            setattr(module, key, buffer.to(placement.device))


def _parameters_with_owners(model: nn.Module) -> Iterator[tuple[list[str], list[Owner]]]:
    """Yield each parameter's names and owners; tied parameters have several of both."""
    groups: dict[int, tuple[list[str], list[Owner]]] = {}
    for prefix, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            names, owners = groups.setdefault(id(parameter), ([], []))
            names.append(f"{prefix}.{attribute}" if prefix else attribute)
            owners.append((module, attribute))
    yield from groups.values()


def _check_names(
    model: nn.Module, files: TensorFiles, tied: list[tuple[list[str], list[Owner]]]
) -> None:
    problems = []
    known: set[str] = set()
    for names, owners in tied:
        known.update(names)
        found = [n for n in names if n in files.names()]
        if not found:
            problems.append(f"missing {names[0]}")
            continue
        module, attribute = owners[0]
        expected = tuple(getattr(module, attribute).shape)
        if isinstance(module, NF4Linear) and attribute == "weight":
            expected = (module.out_features, module.in_features)
        if files.shape(found[0]) != expected:
            shape = list(files.shape(found[0]))
            problems.append(f"{found[0]} has shape {shape}, not {list(expected)}")
    ignored = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    for name in sorted(files.names() - known):
        if "rotary_emb.inv_freq" not in name and not any(key in name for key in ignored):
            problems.append(f"unexpected {name}")
    if problems:
        shown = "; ".join(problems[:8]) + (f"; {len(problems) - 8} more" if problems[8:] else "")
        raise LopeError(f"The weights do not fit {type(model).__name__}: {shown}.")


def _load_plain(
    name: str, files: TensorFiles, placement: Placement, dtype: torch.dtype
) -> nn.Parameter:
    shape = torch.Size(files.shape(name))
    start, stop = placement.span(shape.numel())
    part = files.read(name, start, stop).to(device=placement.device, dtype=dtype)
    parameter = nn.Parameter(_stand_in(shape, dtype, placement), requires_grad=False)
    placement.place(parameter, part, shape)
    return parameter


def _load_quantized(
    name: str,
    layer: NF4Linear,
    files: TensorFiles,
    placement: Placement,
    dtype: torch.dtype,
    nested: bool,
) -> nn.Parameter:
    shape = torch.Size(files.shape(name))
    total = shape.numel()
    if total % BLOCK:
        raise LopeError(
            f"{name} has {total} weights, which is no multiple of {BLOCK}; add its layer to "
            "model.skip_modules to leave it unquantized."
        )
    storage = layer.quant_storage
    per = values_per_element(storage)
    spans = placement.spans(total // per)
    start, stop = placement.span(total // per)
    first, last = _whole_blocks(start, stop, per)
    weights = files.read(name, first, last).to(device=placement.device, dtype=dtype)
    packed, absmax = quantize_flat(weights, storage)
    part = packed[start - first // per : stop - first // per]
    scales = _join_scales(absmax, placement, [_whole_blocks(*span, per) for span in spans], total)
    packed_shape = torch.Size((total // per, 1))
    state = quant_state(scales, shape, dtype, nested)
    parameter = packed_parameter(_stand_in(packed_shape, storage, placement), layer, state)
    placement.place(parameter, part, packed_shape)
    return parameter


def _whole_blocks(start: int, stop: int, per: int) -> tuple[int, int]:
    """Widen a span of packed elements to the weights of whole blocks."""
    if stop == start:
        return start * per // BLOCK * BLOCK, start * per // BLOCK * BLOCK
    return start * per // BLOCK * BLOCK, -(-(stop * per) // BLOCK) * BLOCK


def _join_scales(
    absmax: Tensor, placement: Placement, weight_spans: list[tuple[int, int]], total: int
) -> Tensor:
    """Return the scales of all blocks; a block on a border comes from both its ranks, equal."""
    spans = [(a // BLOCK, b // BLOCK) for a, b in weight_spans]
    scales = placement.whole(absmax, spans)
    assert scales.numel() == total // BLOCK
    return scales


def _stand_in(shape: torch.Size, dtype: torch.dtype, placement: Placement) -> Tensor:
    """Return a tensor of the right shape that takes the memory of one element."""
    return torch.empty(1, dtype=dtype, device=placement.device).expand(shape)
