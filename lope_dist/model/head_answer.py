"""Whether what a model's head returns is its logits, found by asking the model itself.

Some models scale their logits behind the head, cap them or add a bias. A head that computes the
loss in the place of logits is of no use there: the model would change the loss instead. So the
head is made to answer with known numbers while everything before it is left out, and what the
model then calls its logits must be these numbers; so must a single number, as a loss is one. That
reads no weight and costs nothing, also on the meta device and where weights are sharded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_SPREAD = 60.0
"""Logits are tried from minus this to this: caps are at 30 and 50."""


def returns_logits(model: PreTrainedModel, head: nn.Module) -> bool:
    """Return whether the model's logits are what its head returns, unchanged.

    ``model`` has no adapters yet, or its head has none. A model that cannot be asked this way
    counts as one that changes them.
    """
    width = int(head.out_features)  # pyright: ignore[reportArgumentType]
    device = _buffer_device(model)
    numbers = torch.linspace(-_SPREAD, _SPREAD, 2 * width, device=device).view(1, 2, width)
    return all(
        _comes_back(model, head, answer) for answer in (numbers, torch.tensor(3.0, device=device))
    )


@torch.no_grad()
def _comes_back(model: PreTrainedModel, head: nn.Module, answer: Tensor) -> bool:
    """Return whether an answer of the head, logits or a loss, is what the model hands on."""
    device = answer.device
    hidden = torch.zeros(1, 2, int(head.in_features), device=device)  # pyright: ignore
    ids = torch.ones(1, 2, dtype=torch.int64, device=device)
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    is_training = model.training
    asked = False

    def answers(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal asked
        asked = True
        return answer

    with ExitStack() as stack:
        stack.enter_context(_forward(head, answers))
        for body in _bodies(model, head):
            stack.enter_context(_forward(body, lambda *args, **kwargs: _Hidden(hidden)))
        stack.callback(model.train, is_training)
        model.eval()
        try:
            logits = model(**inputs).logits
        except Exception:  # of any kind: a model of unknown build
            return False
    return asked and logits.shape == answer.shape and bool(torch.equal(logits.float(), answer))


def _bodies(model: nn.Module, head: nn.Module) -> list[nn.Module]:
    """Return the children without the head; of one that holds it, its own."""
    bodies: list[nn.Module] = []
    for child in model.children():
        if child is head:
            continue
        if any(module is head for module in child.modules()):
            bodies += _bodies(child, head)
        else:
            bodies.append(child)
    return bodies


@contextmanager
def _forward(module: nn.Module, forward: Any) -> Iterator[None]:
    """Context in which a module computes something else."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


class _Hidden(dict[str, Any]):
    """What stacks of layers return: the last hidden state, and nothing else."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__(last_hidden_state=hidden)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.get(name)

    def __getitem__(self, key: Any) -> Any:
        return self["last_hidden_state"] if key == 0 else super().__getitem__(key)


def _buffer_device(model: nn.Module) -> torch.device:
    """Return where the model's buffers are; those are real on a meta model too."""
    return next((b.device for b in model.buffers() if not b.is_meta), torch.device("cpu"))
