"""Which layers an adapter can stand beside: those whose output is a product with their input."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

from lope_dist.core.errors import LopeError

_BANK_DIMS = 3
_IN, _OUT = 6, 4


def is_product(layer: nn.Module) -> bool:
    """Return whether a linear layer gives `x W^T + b` and nothing else.

    The class of a layer says so (``is_product``), or it is tried: a small copy of the layer, with
    weights of its own, is compared with the product. Routers that choose experts, heads that
    scale and grouped layers are subclasses of `nn.Linear` too.
    """
    declared = getattr(layer, "is_product", None)
    if declared is not None:
        return declared
    return type(layer) in (nn.Linear, Conv1D) or _multiplies(layer)


def refuse_banks(model: nn.Module, targets: Sequence[str]) -> None:
    """Refuse targets that name weights of expert banks, which get no adapters.

    Raises:
        LopeError: a target is a name, a dotted suffix or a pattern of a bank or its weight.
    """
    for bank, attributes in modules_with_banks(model).items():
        for name in (bank, *(f"{bank}.{attribute}" for attribute in attributes)):
            for target in targets:
                if name == target or name.endswith(f".{target}") or fnmatchcase(name, target):
                    raise LopeError(
                        f"adapter.targets: '{target}' names {name}, the weights of all experts of "
                        "a layer in one, and adapters go on linear layers alone; leave it out, or "
                        "name the linear layers that are meant by more of their names."
                    )


def modules_with_banks(model: nn.Module) -> dict[str, list[str]]:
    """Return the modules with three-dimensional weights, and those weights' names."""
    banks: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        packed = getattr(module, "packed_weights", {})
        names = [
            key
            for key, parameter in module.named_parameters(recurse=False)
            if len(packed[key].shape if key in packed else parameter.shape) == _BANK_DIMS
        ]
        if names and not isinstance(module, _ConvNd):
            banks[name] = names
    return banks


def _multiplies(layer: nn.Module) -> bool:
    is_transposed = isinstance(layer, Conv1D)
    sizes = ("nx", "nf") if is_transposed else ("in_features", "out_features")
    declared_shape = tuple(
        getattr(layer, name) for name in (sizes if is_transposed else reversed(sizes))
    )
    if tuple(layer.weight.shape) != declared_shape:  # pyright: ignore
        return True  # another library's packed weight, which it promises to multiply with
    values = torch.arange(_IN * _OUT, dtype=torch.float32).sin()
    weight_OD, bias = values.view(_OUT, _IN), values[:_OUT].cos()
    x_NTD = torch.arange(2 * 3 * _IN, dtype=torch.float32).cos().view(2, 3, _IN)
    small = copy.copy(layer)
    vars(small).update(zip(sizes, (_IN, _OUT), strict=True))
    has_bias = layer.bias is not None
    small._parameters = {
        "weight": nn.Parameter(weight_OD.t().contiguous() if is_transposed else weight_OD),
        "bias": nn.Parameter(bias) if has_bias else None,
    }
    expected = F.linear(x_NTD, weight_OD, bias if has_bias else None)
    for small.training in (False, True):
        try:
            with torch.no_grad():
                y_NTO = small.forward(x_NTD)
        except Exception:  # it is not ours, and asks for more than an input
            return False
        if not isinstance(y_NTO, Tensor) or y_NTO.shape != expected.shape:
            return False
        if not torch.allclose(y_NTO, expected, atol=1e-5):
            return False
    return True
