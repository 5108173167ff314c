"""Which tensors of the files fill which parameters; all that does not fit, in one error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from lope_dist.core.errors import LopeError
from lope_dist.model import prequantized
from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.model.nf4 import PackedWeight, packed_weights
from lope_dist.model.nf4_layout import BLOCK

Owner = tuple[nn.Module, str]
_SHOWN = 8


@dataclass(frozen=True)
class Slot:
    """A parameter to fill.

    Attributes:
        name: Its tensor in the files.
        owners: Modules and attribute names that hold it; tied parameters have several.
        packed: How, if the parameter is to be packed NF4.
        is_prequantized: Whether the files hold it packed already.
    """

    name: str
    owners: list[Owner]
    packed: PackedWeight | None
    is_prequantized: bool


def take_inventory(model: nn.Module, files: TensorFiles) -> list[Slot]:
    """Match a model on the meta device with the files.

    Raises:
        LopeError: tensors that are missing, unexpected, of another shape or packed in a way
            that the model does not use, all listed.
    """
    slots, problems = [], []
    available, known = files.names(), set()
    for names, owners in _parameters_with_owners(model):
        known.update(names)
        name = next((n for n in names if n in available), None)
        if name is None:
            problems.append(f"missing {names[0]}")
            continue
        module, attribute = owners[0]
        packed = packed_weights(module).get(attribute)
        companions = prequantized.companions(name, available)
        known.update(companions)
        slots.append(Slot(name, owners, packed, bool(companions)))
        if companions and packed is not None:
            problems += prequantized.misfits(name, packed, files)
        else:
            expected = tuple(getattr(module, attribute).shape)
            problems += _misfits(name, expected, files, is_nf4=packed is not None)
    ignored = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    for name in sorted(available - known):
        if "rotary_emb.inv_freq" not in name and not any(key in name for key in ignored):
            problems.append(f"unexpected {name}")
    if problems:
        more = len(problems) - _SHOWN
        shown = "; ".join(problems[:_SHOWN]) + (f"; {more} more" if more > 0 else "")
        raise LopeError(f"The weights do not fit {type(model).__name__}: {shown}.")
    return slots


def _misfits(
    name: str, expected: tuple[int, ...], files: TensorFiles, *, is_nf4: bool
) -> Iterator[str]:
    """Yield what keeps an unpacked tensor from being used."""
    if files.dtype(name) == torch.uint8:
        yield f"{name} is packed bytes where the model wants numbers (see model.skip_modules)"
    elif files.shape(name) != expected:
        yield f"{name} has shape {list(files.shape(name))}, not {list(expected)}"
    elif is_nf4 and math.prod(expected) % BLOCK:
        yield (
            f"{name} has {math.prod(expected)} weights, no multiple of {BLOCK}; add its "
            "layer to model.skip_modules to leave it unquantized"
        )


def _parameters_with_owners(model: nn.Module) -> list[tuple[list[str], list[Owner]]]:
    """Return each parameter's names and owners; tied parameters have several of both."""
    groups: dict[int, tuple[list[str], list[Owner]]] = {}
    for prefix, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            names, owners = groups.setdefault(id(parameter), ([], []))
            names.append(f"{prefix}.{attribute}" if prefix else attribute)
            owners.append((module, attribute))
    return list(groups.values())
