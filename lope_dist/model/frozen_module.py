"""Any module of the frozen base, with its weights let go between forward and backward.

Banks of experts, GPT-2's `Conv1D` and subclasses of `nn.Linear` multiply in ways of their own,
so their forward runs as transformers wrote it. What changes is what it finds and what it leaves:

* a packed weight is dequantized for the forward pass, in the place of the parameter;
* what autograd would keep of a weight, packed or not, is kept as *which part of which
  parameter*. The backward pass makes that part again, from the parameter that ZeRO-3 has
  gathered anew. A kept view would pin the gathered parameter, a kept dequantized weight four
  times as much.

    parameter (flat, NF4) --dequantized--> weight (E, O, D) --view--> saved by autograd
                                             let go             kept: name, size, stride, offset
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lope_dist.adapters.product import is_product
from lope_dist.model.nf4 import PackedWeight, packed_weights


class Part(NamedTuple):
    """A strided part of one of a module's weights."""

    name: str
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    @property
    def stop(self) -> int:
        """The element after the last one, in the flat weight."""
        last = sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        return self.offset + last + 1


class _MemoryRange:
    """Where in memory a weight is during a forward pass; it holds no reference to it."""

    def __init__(self, name: str, weight: Tensor) -> None:
        self.name, self.dtype = name, weight.dtype
        self.first = weight.data_ptr()
        self.size = 0 if weight.is_meta else weight.numel() * weight.itemsize

    def holds(self, tensor: Tensor) -> bool:
        """Return whether a tensor is a view of the weight."""
        is_inside = self.first <= tensor.data_ptr() < self.first + self.size
        return is_inside and tensor.dtype == self.dtype

    def part(self, tensor: Tensor) -> Part:
        """Return which part of the weight a view is."""
        offset = (tensor.data_ptr() - self.first) // tensor.itemsize
        return Part(self.name, tensor.size(), tensor.stride(), offset)


class FrozenModule(nn.Module):
    """Stands before a module's own class; `freeze` puts it there."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's own forward."""
        dequantized = {
            name: packed.dequantize(self.get_parameter(name).data)
            for name, packed in packed_weights(self).items()
        }
        weights = {name: p.data for name, p in self.named_parameters(recurse=False)}
        ranges = [_MemoryRange(name, weight) for name, weight in (weights | dequantized).items()]
        del weights

        def forget(tensor: Tensor) -> Tensor | Part:
            return next((memory.part(tensor) for memory in ranges if memory.holds(tensor)), tensor)

        # Found before the parameters, because those are looked up only where nothing else is.
        vars(self).update(dequantized)
        del dequantized
        try:
            with torch.autograd.graph.saved_tensors_hooks(forget, self._remember):
                return super().forward(*args, **kwargs)
        finally:
            for name in packed_weights(self):
                del vars(self)[name]

    def _remember(self, kept: Tensor | Part) -> Tensor:
        """Return what autograd wanted to keep."""
        if not isinstance(kept, Part):
            return kept
        data = self.get_parameter(kept.name).data
        assert data.numel() > 0, "the weight was not gathered for the backward pass"
        packed = packed_weights(self).get(kept.name)
        if packed is None:
            first = data.storage_offset()
            return data.as_strided(kept.size, kept.stride, first + kept.offset)
        weight, first = packed.dequantize_part(data, kept.offset, kept.stop)
        return weight.as_strided(kept.size, kept.stride, kept.offset - first)


def freeze(module: nn.Module, packed: dict[str, PackedWeight]) -> None:
    """Let a module's weights go between forward and backward.

    Args:
        module: Of any class; its parameters keep their names.
        packed: Those of its parameters that will hold packed weights, perhaps none.
    """
    assert not isinstance(module, FrozenModule)
    module_class = type(module)
    if issubclass(module_class, (nn.Linear, Conv1D)):
        module.is_product = is_product(module)  # type: ignore[assignment]
    module.packed_weights = packed  # type: ignore[assignment]
    module.__class__ = _frozen(module_class)


def thaw(module: FrozenModule) -> None:
    """Give a module its own class back, to look at what it keeps."""
    module.__class__ = next(base for base in type(module).__bases__ if base is not FrozenModule)


@cache
def _frozen(module_class: type[nn.Module]) -> type[nn.Module]:
    return type(
        module_class.__name__, (FrozenModule, module_class), {"__module__": module_class.__module__}
    )
