"""Weights that are read past their layer, as mixers do for fused kernels."""

import torch
from torch import Tensor, nn

from lope_dist.model.weight_reads import weights_read_outside


class _Mixer(nn.Module):
    def __init__(self, *, is_slow: bool) -> None:
        super().__init__()
        self.asked = nn.Linear(4, 4)
        self.multiplied = nn.Linear(4, 4)
        self.described = nn.Linear(4, 4)
        self.sliced = nn.Linear(4, 4)
        self.is_slow = is_slow
        nn.init.zeros_(self.asked.weight)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.described.weight, Tensor) and x.dtype != self.described.weight.dtype:
            x = x.to(self.described.weight.dtype)
        x = self.asked(x) @ self.multiplied.weight
        if self.is_slow and self.sliced is not None:
            x = x @ self.sliced.weight[:, :4]
        else:
            x = self.sliced(x)
        return x


def _names(model: nn.Module) -> set[str]:
    found = weights_read_outside(model)
    return {name for name, parameter in model.named_parameters() if id(parameter) in found}


def test_reads_are_told_from_calls_and_from_questions() -> None:
    assert _names(_Mixer(is_slow=False)) == {"multiplied.weight"}


def test_a_branch_that_the_settings_rule_out_does_not_count() -> None:
    assert _names(_Mixer(is_slow=True)) == {"multiplied.weight", "sliced.weight"}


def test_torchs_attention_reads_its_projections_weight() -> None:
    with torch.device("meta"):
        assert "out_proj.weight" in _names(nn.MultiheadAttention(8, 2))
