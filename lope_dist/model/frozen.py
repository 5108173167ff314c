"""A linear layer of the frozen base that lets go of its weight between forward and backward.

PyTorch's own keeps the transposed weight, a view, for the gradient of its input. Under ZeRO-3
that view pins the gathered weight although the parameter has been released, and the backward
pass gathers a second one beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenLinear(nn.Linear):
    """`x W^T + b` whose weight and bias get no gradient."""

    is_product = True
    rows: Iterable[tuple[int, Tensor]] | None = None
    """While answering with a weight that is spread over ranks: its rows, some at a time, with the
    number of the first; in place of `weight`."""

    @property
    def takes_rows(self) -> bool:
        """Whether the next forward pass can compute from `rows`."""
        return True

    def __init__(self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype) -> None:
        super().__init__(in_features, out_features, bias=bias, device="meta", dtype=dtype)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer's output.

        Shapes: x `(..., in_features)`, result `(..., out_features)`.
        """
        # A part of the tokens is not contiguous: for its product PyTorch would copy the weight for
        # each row of the batch.
        x_PD = x.reshape(-1, self.in_features)
        if self.rows is not None:
            y = self._by_rows(x_PD, self.rows)
        else:
            y = _MatMulFrozen.apply(x_PD, self)
        assert isinstance(y, Tensor)
        return y.view(*x.shape[:-1], self.out_features)

    def _by_rows(self, x: Tensor, rows: Iterable[tuple[int, Tensor]]) -> Tensor:
        y = x.new_empty(len(x), self.out_features)
        for first, piece in rows:
            y[:, first : first + len(piece)] = F.linear(x, piece)
        return y


class _MatMulFrozen(torch.autograd.Function):
    """The product, with the weight read anew in the backward pass, once gathered again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        (grad_y,) = grads
        if not ctx.needs_input_grad[0]:
            return None, None
        weight = ctx.layer.weight.data
        assert weight.numel() > 0, "the weight was not gathered for the backward pass"
        return grad_y @ weight, None
