"""A module with one parameter or two of each role, small enough to reckon by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lope_dist.core.roles import Role


class Toy(nn.Module):
    """`y = (base + a + n_0 + n_1 + p + r) * x`, one number each."""

    def __init__(self) -> None:
        super().__init__()
        for name in ROLES:
            self.register_parameter(name, nn.Parameter(torch.zeros(1)))

    def forward(self, x, use_cache=True):  # noqa: D102
        assert not use_cache
        return sum(self.parameters()) * x


ROLES = {
    "base": Role.BASE,
    "a": Role.SHARED_A,
    "n_0": Role.NORMAL_B,
    "n_1": Role.NORMAL_B,
    "p": Role.POISON_B,
    "r": Role.ROUTER,
}


@pytest.fixture
def roles():
    return dict(ROLES)


@pytest.fixture
def toy():
    """Return a function: trainable roles -> a module of which exactly these train."""

    def make(*trainable):
        module = Toy()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(ROLES[name] in trainable)
        return module

    return make
