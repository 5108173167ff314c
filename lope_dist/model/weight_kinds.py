"""What a weight is to its model, by structure: a matrix of a product, or of another kind.

Matrices are quantized. The other kinds are few and small, or nothing multiplies with them, so
they stay in 16 bits in every quantized model; each is told by the class of its module, its
shape or its place. A weight that is neither stays what it is and is *named*
(`quantization.py`), never passed over.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lope_dist.adapters.base import AdapterModule, adapter_modules
from lope_dist.adapters.targets import routers_beside, text_modules
from lope_dist.model.nf4 import packed_weights
from lope_dist.model.nf4_layout import BLOCK
from lope_dist.model.weight_reads import weights_read_outside

EMBEDDING = "embeddings"
HEAD = "head"
CONVOLUTION = "convolutions"
STATE_SPACE = "state-space parameters"
ROUTER = "routers"
BIAS = "biases"
VECTOR = "vectors"
NO_BLOCKS = "no whole blocks of 64"
FLOAT32 = "kept in float32 by transformers"
SMALL = "small parameters that are no layer's"
OTHER_INPUTS = "parts that read no text"

_BANK_DIMS = 3
_SMALL = BLOCK * BLOCK


@dataclass(frozen=True)
class Weight:
    """A parameter of two or more dimensions, and where it is."""

    name: str
    module: nn.Module
    attribute: str
    numel: int
    shape: tuple[int, ...]
    """As its module computes with it, packed or not."""
    parameter: Tensor


def weights(model: nn.Module) -> list[Weight]:
    """Return the base's weights of two or more dimensions, tied ones once."""
    declared = {
        f"{name}.{parameter}"
        for name, adapter in adapter_modules(model).items()
        for parameter in adapter.roles()
    }
    by_identity: dict[int, Weight] = {}
    for prefix, module in model.named_modules():
        packed = packed_weights(module)
        for attribute, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{attribute}" if prefix else attribute
            shape = packed[attribute].shape if attribute in packed else parameter.shape
            if name in declared or len(shape) < 2 or not parameter.is_floating_point():
                continue
            weight = Weight(name, module, attribute, shape.numel(), tuple(shape), parameter)
            by_identity.setdefault(id(parameter), weight)
    return list(by_identity.values())


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear layer: any `nn.Linear`, or GPT-2's `Conv1D`."""
    return isinstance(module, (nn.Linear, Conv1D))


def names_weight(entry: str, name: str) -> bool:
    """Return whether an entry of `model.skip_modules` names a weight.

    It does if it is the last part, or a dotted suffix, of the name of the weight or of any
    module that the weight is in.
    """
    parts = name.split(".")
    prefixes = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return any(prefix == entry or prefix.endswith(f".{entry}") for prefix in prefixes)


def expert_banks(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that hold all experts of a layer in three-dimensional weights.

    They are recognised by transformers' decorator for them, or by a router beside them.
    """
    return {
        name: module
        for name, module in _stacks_of_matrices(model).items()
        if _is_decorated(module) or _routers_of(model, name, module)
    }


class Kinds:
    """The kinds of a model's weights that are not quantized whatever the configuration."""

    def __init__(self, model: PreTrainedModel, skip_modules: tuple[str, ...]) -> None:
        banks = expert_banks(model)
        self._bank_ids = {id(bank) for bank in banks.values()}
        self._routers = {
            id(router) for name, bank in banks.items() for router in _routers_of(model, name, bank)
        }
        self._routing = {id(module) for module in routers_beside(model, banks)}
        self._embeddings = {
            id(parameter)
            for module in model.modules()
            if isinstance(module, nn.Embedding)
            for parameter in module.parameters(recurse=False)
        }
        head = model.get_output_embeddings()
        self._head = {id(p) for p in head.parameters()} if head is not None else set[int]()
        self._skip_modules = skip_modules
        self._float32 = (
            *(getattr(model, "_keep_in_fp32_modules", None) or ()),
            *(getattr(model, "_keep_in_fp32_modules_strict", None) or ()),
        )
        self._read_outside = weights_read_outside(model)
        self._beside_convolutions = _beside_convolutions(model)
        self._text = {
            id(parameter)
            for module in text_modules(model)
            for parameter in module.parameters(recurse=False)
        }

    def of(self, weight: Weight) -> str | None:
        """Return the weight's kind, or None for a matrix of a product and for the unknown."""
        identity = id(weight.parameter)
        checks = (
            (EMBEDDING, identity in self._embeddings),
            (HEAD, identity in self._head and "lm_head" in self._skip_modules),
            (VECTOR, sum(size > 1 for size in weight.shape) < 2),
            (CONVOLUTION, isinstance(weight.module, _ConvNd)),
            (ROUTER, identity in self._routers or id(weight.module) in self._routing),
            (BIAS, weight.attribute.endswith("bias")),
            (FLOAT32, any(names_weight(entry, weight.name) for entry in self._float32)),
            (NO_BLOCKS, weight.numel % BLOCK != 0),
        )
        if kind := next((kind for kind, holds in checks if holds), None):
            return kind
        if self.is_packable(weight):
            return None
        if id(weight.module) in self._beside_convolutions:
            return STATE_SPACE
        if identity not in self._text:
            return OTHER_INPUTS
        return SMALL if weight.numel < _SMALL else None

    def is_skipped(self, weight: Weight) -> bool:
        """Return whether `model.skip_modules` names the weight."""
        return any(names_weight(entry, weight.name) for entry in self._skip_modules)

    def is_packable(self, weight: Weight) -> bool:
        """Return whether its module alone multiplies with the weight, so that it may be packed."""
        if id(weight.parameter) in self._read_outside:
            return False
        is_bank = id(weight.module) in self._bank_ids and len(weight.shape) == _BANK_DIMS
        return is_bank or is_linear(weight.module)


def _stacks_of_matrices(model: nn.Module) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in model.named_modules()
        if name and not isinstance(module, _ConvNd) and _stacks(module)
    }


def _stacks(module: nn.Module) -> list[torch.Size]:
    """Return the shapes of a module's own three-dimensional weights."""
    packed = packed_weights(module)
    shapes = [
        packed[name].shape if name in packed else parameter.shape
        for name, parameter in module.named_parameters(recurse=False)
    ]
    return [shape for shape in shapes if len(shape) == _BANK_DIMS and min(shape) > 1]


def _is_decorated(module: nn.Module) -> bool:
    """Return whether transformers' `use_experts_implementation` made the module's class."""
    return all(hasattr(module, name) for name in ("is_transposed", "has_gate", "has_bias"))


def _routers_of(model: nn.Module, name: str, bank: nn.Module) -> list[nn.Parameter]:
    """Return the weights beside a bank with a row for each expert.

    A router is a sibling of the bank, or all that a sibling has: other layers may happen to have
    as many rows. Where nothing but the router tells that this is a bank, both read the same input.
    """
    shapes = _stacks(bank)
    rows = {shape[0] for shape in shapes}
    columns = None if _is_decorated(bank) else {size for shape in shapes for size in shape[1:]}
    around = model.get_submodule(name.rpartition(".")[0]).children()
    siblings = [m.get_submodule("base") if isinstance(m, AdapterModule) else m for m in around]
    siblings = [m for m in siblings if m is not bank]
    lonely = [
        layers[0]
        for sibling in siblings
        if len(layers := [m for m in sibling.modules() if _matrices(m)]) == 1
    ]
    for level in (siblings, lonely):
        routers = [
            parameter
            for module in level
            for parameter in _matrices(module)
            if parameter.shape[0] in rows and (columns is None or parameter.shape[1] in columns)
        ]
        if routers:
            return routers
    return []


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters(recurse=False) if parameter.ndim == 2]


def _beside_convolutions(model: nn.Module) -> set[int]:
    """Return the modules that hold a convolution, and their children: state-space mixers."""
    modules: set[int] = set()
    for module in model.modules():
        children = list(module.children())
        if any(isinstance(child, _ConvNd) for child in children):
            modules |= {id(module), *map(id, children)}
    return modules
