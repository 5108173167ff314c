"""What a loaded model shows when it is asked: its last hidden states, the same or not.

Rounding differs between batches of other shapes, and in a mixture of experts it may send a token
to another expert. So states are compared as sets: a token's states agree where *any* of one set
is near any of the other.

Shapes: N rows, T tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@torch.no_grad()
def last_hidden(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """Return what the model asks its head with, (N, T, D) float32; no logits are made.

    Collective: yes, where the model is partitioned.
    """
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Module)
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any) -> Any:
        kept.append(args[0])
        return (args[0][:, -1:], *args[1:])

    handle = head.register_forward_pre_hook(keep)
    try:
        model(**inputs, use_cache=False)
    finally:
        handle.remove()
    return kept[0].float()


def differences_within(states_TD: Sequence[Tensor]) -> Tensor:
    """Return each token's least relative difference between any two of several states, (T,)."""
    return _least(list(combinations(states_TD, 2)))


def differences_between(one_TD: Sequence[Tensor], other_TD: Sequence[Tensor]) -> Tensor:
    """Return each token's least relative difference between any of one and any of another, (T,)."""
    return _least(list(product(one_TD, other_TD)))


def _least(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    differences = [
        torch.linalg.vector_norm(a - b, dim=-1)
        / torch.linalg.vector_norm(b, dim=-1).clamp(min=1e-12)
        for a, b in pairs
    ]
    # A number that is not finite is a difference: `minimum` hands it on.
    return torch.stack(differences).amin(0).nan_to_num(nan=torch.inf)


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Context in which the model trains or does not; it draws no number of the run's."""
    was = {module: module.training for module in model.modules()}
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        model.train(training)
        try:
            yield
        finally:
            for module, is_training in was.items():
                module.training = is_training


def vocabulary(model: PreTrainedModel) -> Tensor:
    """Return the tokens that stand for text: those that the configuration does not name."""
    ids = torch.arange(embedding_rows(model))
    return ids[~torch.isin(ids, torch.tensor([*_named_tokens(model.config)]))]


def embedding_rows(model: PreTrainedModel) -> int:
    """Return how many tokens the model's input embedding has a row for."""
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    return embedding.num_embeddings


def longest_window(config: Any) -> int:
    """Return the widest attention window or chunk that an architecture names; 0: none."""
    widest = 0
    for name, value in vars(config).items():
        if hasattr(value, "to_dict"):
            widest = max(widest, longest_window(value))
        elif ("window" in name or "chunk_size" in name) and type(value) is int:
            widest = max(widest, value)
    return widest


def _named_tokens(config: Any) -> Iterator[int]:
    for name, value in vars(config).items():
        if hasattr(value, "to_dict"):
            yield from _named_tokens(value)
        elif "token_id" in name or "token_index" in name:
            yield from [value] if type(value) is int else value if type(value) is list else ()
