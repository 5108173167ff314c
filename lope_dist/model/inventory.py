"""Which tensors of the files fill which parameters; all that does not fit, in one error."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from lope_dist.core.errors import LopeError, first_line
from lope_dist.model import prequantized
from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.model.name_mapping import NameMap, map_names, may_be_missing
from lope_dist.model.nf4 import PackedWeight, packed_weights
from lope_dist.model.nf4_layout import BLOCK
from lope_dist.model.origin import Origin, origins
from lope_dist.model.weight_kinds import is_linear

Owner = tuple[nn.Module, str]
_SHOWN = 8
_MAX_WHOLE_BYTES = 8 << 30
"""What one parameter may take that cannot be read in parts."""


@dataclass(frozen=True)
class Slot:
    """A parameter or a persistent buffer to fill.

    Attributes:
        origin: Where its values are.
        owners: Modules and attribute names that hold it, by name; tied parameters have several.
        packed: How, if the parameter is to be packed NF4.
        is_prequantized: Whether the files hold it packed already.
        is_buffer: Whether it is a buffer.
        rivals: What the files hold for other names of a tied parameter, by name.
    """

    origin: Origin
    owners: dict[str, Owner]
    packed: PackedWeight | None
    is_prequantized: bool
    is_buffer: bool
    rivals: dict[str, Origin]


@dataclass(frozen=True)
class Inventory:
    """What there is to read.

    Attributes:
        slots: One for each parameter and each persistent buffer of the files.
        left_out: File tensors of parts that the model does not have.
    """

    slots: list[Slot]
    left_out: list[str]


def take_inventory(model: PreTrainedModel, files: TensorFiles, dtype: torch.dtype) -> Inventory:
    """Match a model on the meta device with the files, the way `from_pretrained` does.

    Args:
        model: On the meta device.
        files: Where the weights are.
        dtype: What the model is loaded in.

    Raises:
        LopeError: tensors that are missing, unexpected, of another shape or packed in a way
            that the model does not use, or left unpacked where it packs them, all listed.
    """
    available = files.names()
    packed_parts = {
        name: parts for name in available if (parts := prequantized.companions(name, available))
    }
    described = set().union(*packed_parts.values())
    mapped = map_names(model, available - described, dtype)
    left_out = _of_other_parts(model, mapped.unexpected, files.folder, dtype)
    problems = [f"unexpected {name}" for name in mapped.unexpected if name not in left_out]
    origin_of = _origins(mapped, model, files, problems)
    slots = []
    for owners, tensor in _held(model):
        present = {name: origin_of.pop(name) for name in owners if name in origin_of}
        is_buffer = not isinstance(tensor, nn.Parameter)
        if not present:
            if not (is_buffer and may_be_missing(model, owners)):
                problems.append(f"missing {next(iter(owners))}")
            continue
        origin = present.pop(next(iter(present)))
        module, attribute = owners[origin.target]
        packed = packed_weights(module).get(attribute)
        is_prequantized = any(name in packed_parts for name in origin.names)
        slots.append(Slot(origin, owners, packed, is_prequantized, is_buffer, present))
        for rival in present.values():
            problems += _misfits(rival, tensor, files, is_nf4=False)
        if is_prequantized and isinstance(module, Conv1D):
            problems.append(
                f"{origin} is packed transposed, as bitsandbytes packs layers of class Conv1D; "
                "load the unquantized model, which is quantized while it is read"
            )
        elif is_prequantized and packed is not None:
            problems += prequantized.misfits(origin, packed, files)
        else:
            problems += _misfits(origin, tensor, files, is_nf4=packed is not None)
    problems += _left_whole(slots, model.get_output_embeddings())
    if problems:
        more = len(problems) - _SHOWN
        shown = "; ".join(problems[:_SHOWN]) + (f"; {more} more" if more > 0 else "")
        raise LopeError(f"The weights do not fit {type(model).__name__}: {shown}.")
    return Inventory(slots, sorted(left_out))


def _left_whole(slots: list[Slot], head: nn.Module | None) -> Iterator[str]:
    """Yield that the files hold layers in 16 bits beside packed ones, which would be packed here.

    The head and banks of experts are no such layers: transformers packs none, whoever asks.
    """
    left: list[str] = []
    packed: list[str] = []
    for slot in slots:
        module, _ = slot.owners[slot.origin.target]
        if slot.packed is not None:
            is_left = not slot.is_prequantized and is_linear(module) and module is not head
            (left if is_left else packed).extend(slot.owners)
    if not left or not any(slot.is_prequantized for slot in slots):
        return
    entries = prequantized.entries_for(left, packed)
    skipped = ",".join(dict.fromkeys(["lm_head", *entries]))
    yield (
        f"{left[0]}{f' and {len(left) - 1} more' if len(left) > 1 else ''}, not packed in the "
        f"files beside packed ones, would be quantized; set model.skip_modules=[{skipped}], with "
        "what else it names, to leave them as they are"
    )


def _of_other_parts(
    model: PreTrainedModel, names: Collection[str], folder: Path, dtype: torch.dtype
) -> set[str]:
    """Return which file tensors have a place in the folder's whole model, if that is another one.

    Such are no mistake: transformers makes the text model alone for some vision-language models.

    Args:
        model: Without a place for any of the tensors.
        names: The tensors.
        folder: The model's, with its `config.json`.
        dtype: What the model is loaded in.
    """
    config = folder / "config.json"
    model_type = json.loads(config.read_text()).get("model_type") if config.is_file() else None
    if not names or model_type == model.config.model_type or model_type not in CONFIG_MAPPING:
        return set()
    arch = AutoConfig.from_pretrained(folder)
    if type(arch) not in AutoModelForImageTextToText._model_mapping:
        return set()
    with init_empty_weights():
        whole = AutoModelForImageTextToText.from_config(arch)
    return set(names) - set(map_names(whole, names, dtype).unexpected)


def _origins(
    mapped: NameMap, model: PreTrainedModel, files: TensorFiles, problems: list[str]
) -> dict[str, Origin]:
    """Return origins by the parameter's name; what cannot be made goes to ``problems``."""
    origin_of: dict[str, Origin] = {}
    for recipe in mapped.recipes:
        try:
            origin_of |= {origin.target: origin for origin in origins(recipe, model, files)}
        except Exception as error:  # transformers' operations have no error of their own
            problems.append(
                f"{recipe.target} cannot be made of {', '.join(recipe.names[:2])}"
                f"{', ...' if len(recipe.names) > 2 else ''} ({first_line(error)})"
            )
    return origin_of


def _misfits(origin: Origin, tensor: Tensor, files: TensorFiles, *, is_nf4: bool) -> Iterator[str]:
    """Yield what keeps an unpacked tensor from being used."""
    expected = tuple(tensor.shape)
    numbers = {files.dtype(name).is_floating_point for name in origin.names}
    whole = origin.whole_bytes(files)
    if tensor.is_floating_point() and False in numbers:
        yield f"{origin} is packed bytes where the model wants numbers (see model.skip_modules)"
    elif origin.shape != expected:
        yield f"{origin} has shape {list(origin.shape)}, not {list(expected)}"
    elif is_nf4 and math.prod(expected) % BLOCK:
        yield (
            f"{origin} has {math.prod(expected)} weights, no multiple of {BLOCK}; add its "
            "layer to model.skip_modules to leave it unquantized"
        )
    elif whole > _MAX_WHOLE_BYTES:
        yield (
            f"{origin} can only be rearranged whole, which takes {whole >> 30} GiB (at most "
            f"{_MAX_WHOLE_BYTES >> 30}); save the model with transformers once and use that folder"
        )


def _held(model: PreTrainedModel) -> list[tuple[dict[str, Owner], Tensor]]:
    """Return each parameter and persistent buffer with its owners by name; tied: several.

    The first name is the one that the others are tied to, where the model says which that is.
    """
    groups: dict[int, tuple[dict[str, Owner], Tensor]] = {}
    state = model.state_dict(keep_vars=True)
    for name in sorted(state, key=lambda name: name in model.all_tied_weights_keys):
        owners, _ = groups.setdefault(id(state[name]), ({}, state[name]))
        path, _, attribute = name.rpartition(".")
        owners[name] = (model.get_submodule(path), attribute)
    return list(groups.values())
