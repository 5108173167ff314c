"""What a layer reads of others is found, whichever way it gets there."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from lope_dist.model.side_inputs import side_inputs


class _Layer(GradientCheckpointingLayer):
    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.reads = reads
        self.key = nn.Linear(4, 4)

    def forward(self, hidden_states, keys):
        if not self.reads:
            keys["first"] = self.key(hidden_states)
        return hidden_states + (keys["first"] if self.reads else self.key(hidden_states))


class _Stack(nn.Module):
    def __init__(self, *reads: bool, by_keyword: bool = False) -> None:
        super().__init__()
        self.list = [_Layer(each) for each in reads]
        self.layers = nn.ModuleList(self.list)
        self.by_keyword = by_keyword

    def forward(self, x):
        keys = {}
        for layer in self.layers:
            x = layer(hidden_states=x, keys=keys) if self.by_keyword else layer(x, keys)
        return x


def read_in(stack: _Stack) -> dict[str, str]:
    x, asked = torch.randn(2, 4), []
    read = side_inputs(dict(stack.layers.named_children()), lambda: asked.append(stack(x)))
    assert not asked[0].requires_grad
    assert torch.equal(asked[0], stack(x)), "the hooks are gone, and changed nothing"
    return read


def input_gradient(stack: _Stack, x: torch.Tensor, *, recomputes: bool) -> torch.Tensor | None:
    for layer in stack.list:
        layer.gradient_checkpointing = recomputes
        vars(layer)["_gradient_checkpointing_func"] = partial(checkpoint, use_reentrant=True)
    leaf = x.clone().requires_grad_()
    out = stack.train()(leaf).sum()
    if out.requires_grad:
        out.backward()
    return leaf.grad


@pytest.mark.parametrize(
    ("reads", "by_keyword", "named"),
    [
        ((False, False, False), False, {}),
        ((False, False, True), False, {"2": "what '1' computed"}),
        ((False,), True, {"0": "its hidden states as a keyword argument"}),
    ],
)
def test_layers_are_named_whose_recomputation_has_other_gradients(reads, by_keyword, named) -> None:
    stack, x = _Stack(*reads, by_keyword=by_keyword), torch.randn(2, 4)
    assert read_in(stack) == named
    whole = input_gradient(stack, x, recomputes=False)
    recomputed = input_gradient(stack, x, recomputes=True)
    assert whole is not None
    is_equal = recomputed is not None and torch.allclose(whole, recomputed)
    assert is_equal is (not named)
