"""Which layers an adapter can stand beside."""

import re

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lope_dist.adapters.product import is_product, refuse_banks
from lope_dist.core.errors import LopeError


class _Plain(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T if self.bias is None else x @ self.weight.T + self.bias


class _Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class _Dropping(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.5, self.training)


class _Router(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = super().forward(x)
        return scores.topk(2, -1)


class _Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down_proj = nn.Parameter(torch.zeros(2, 4, 4))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_subclass_is_tried(device: str) -> None:
    with torch.device(device):
        products = nn.Linear(4, 8), Conv1D(8, 4), _Plain(4, 8), _Plain(4, 8, bias=False)
        others = _Scaled(4, 8), _Dropping(4, 8), _Router(4, 8)
    assert [is_product(layer) for layer in products] == [True] * 4
    assert [is_product(layer) for layer in others] == [False] * 3
    assert products[2].weight.shape == (8, 4)
    assert products[2].in_features == 4


@pytest.mark.parametrize("target", ["down_proj", "experts", "experts.down_proj", "*_proj"])
def test_targets_that_name_a_bank_are_refused(target: str) -> None:
    mlp = nn.ModuleDict({"experts": _Experts(), "gate": nn.Linear(4, 2)})
    model = nn.ModuleDict({"mlp": mlp, "q_proj": nn.Linear(4, 4)})
    with pytest.raises(LopeError, match=f"'{re.escape(target)}' names mlp.experts.*linear layers"):
        refuse_banks(model, ["q_proj", target])
    refuse_banks(model, ["q_proj", "gate"])
