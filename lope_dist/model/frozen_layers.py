"""Layers and banks of experts that ZeRO-3 can free, in 4 bits where the model is quantized."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError, suggest
from lope_dist.model.frozen import FrozenLinear
from lope_dist.model.frozen_module import freeze
from lope_dist.model.loss_head import LossHead
from lope_dist.model.nf4 import NF4Linear, PackedWeight
from lope_dist.model.nf4_layout import PackedLayout
from lope_dist.model.weight_kinds import Kinds, expert_banks, is_linear, names_weight, weights


def use_frozen_layers(
    model: PreTrainedModel, config: ModelConfig, head: nn.Module | None, dtype: torch.dtype
) -> None:
    """Replace plain linear layers; let banks and linear layers of other classes let go.

    Args:
        model: On the meta device.
        config: What is quantized.
        head: An output projection that becomes one that can compute the loss.
        dtype: Of the computation.

    Raises:
        LopeError: `model.skip_modules` names something that the model does not have.
    """
    packed = _packed_weights(model, config, dtype)
    banks = expert_banks(model)
    replaced: dict[int, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) is nn.Linear:
            if id(module) not in replaced:
                replaced[id(module)] = _frozen_linear(
                    module, packed, is_head=module is head, dtype=dtype
                )
            model.set_submodule(name, replaced[id(module)])
        elif id(module) not in replaced and (is_linear(module) or name in banks):
            replaced[id(module)] = module
            if isinstance(module, Conv1D):  # as the adapters ask for it
                module.in_features, module.out_features = module.nx, module.nf
            parameters = module.named_parameters(recurse=False)
            freeze(module, {key: packed[id(p)] for key, p in parameters if id(p) in packed})


def _packed_weights(
    model: PreTrainedModel, config: ModelConfig, dtype: torch.dtype
) -> dict[int, PackedWeight]:
    """Return how each weight that is to be quantized is packed, by its parameter's identity."""
    if config.quantization == "none":
        return {}
    all_weights = weights(model)
    _check_skip_modules(config, [weight.name for weight in all_weights])
    kinds = Kinds(model, config.skip_modules)
    return {
        id(weight.parameter): PackedWeight(
            torch.Size(weight.shape),
            PackedLayout(weight.numel, dtype, config.double_quantization),
        )
        for weight in all_weights
        if kinds.of(weight) is None and kinds.is_packable(weight) and not kinds.is_skipped(weight)
    }


def _frozen_linear(
    layer: nn.Linear, packed: dict[int, PackedWeight], *, is_head: bool, dtype: torch.dtype
) -> nn.Linear:
    size = (layer.in_features, layer.out_features, layer.bias is not None)
    linear: nn.Linear
    if id(layer.weight) in packed:
        how = packed[id(layer.weight)]
        linear = NF4Linear(*size, dtype, how.layout.nested)
        linear.packed_weights = {"weight": how}
    else:
        linear = (LossHead if is_head else FrozenLinear)(*size, dtype)
    linear.weight = layer.weight  # which may be tied, or of a dtype of its own
    return linear


def _check_skip_modules(config: ModelConfig, names: list[str]) -> None:
    """Refuse an entry that keeps nothing in 16 bits; `lm_head` is any model's head."""
    for entry in config.skip_modules:
        if entry == "lm_head" or any(names_weight(entry, name) for name in names):
            continue
        modules = {part for name in names for part in name.split(".")[:-1]}
        raise LopeError(
            f"model.skip_modules: '{entry}' names no weight of this model; give the last part "
            f"or a dotted suffix of a module's name.{suggest(entry, modules)}"
        )
