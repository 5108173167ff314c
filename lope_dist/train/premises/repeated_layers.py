"""Layers of one kind, of which two stand for all while a model is looked at without values."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

_OWN = ("lope_dist", "torch")  # modules whose numbers say where they are, not what they do
_PLACES = ("layer_idx", "layer_index", "idx")


@contextmanager
def repeats_left_out(layers: Sequence[nn.Module]) -> Iterator[dict[int, int]]:
    """Let the third and further layers of a kind hand their input on.

    The first of a kind may keep what all share, the second is like the rest.

    Yields:
        The index of each layer that is left out -> that of the one it is like.
    """
    kinds: dict[Hashable, list[int]] = {}
    for index, layer in enumerate(layers):
        kinds.setdefault(_kind(layer), []).append(index)
    stand_ins = {index: alike[1] for alike in kinds.values() for index in alike[2:]}
    tails: dict[int, tuple[Any, ...] | None] = {}
    handles = [
        layers[index].register_forward_hook(_remember(tails, index))
        for index in set(stand_ins.values())
    ]
    for index, like in stand_ins.items():
        layers[index].forward = _hand_on(tails, like)
    try:
        yield stand_ins
    finally:
        for handle in handles:
            handle.remove()
        for index in stand_ins:
            del layers[index].forward


def _remember(tails: dict[int, tuple[Any, ...] | None], index: int) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        tails[index] = output[1:] if isinstance(output, tuple) else None

    return hook


def _hand_on(tails: dict[int, tuple[Any, ...] | None], like: int) -> Callable[..., Any]:
    """Return a forward that answers with its first argument, a copy, as the layer ``like`` does."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = (args[0] if args else kwargs["hidden_states"]).clone()
        tail = tails[like]
        return hidden if tail is None else (hidden, *tail)

    return forward


def _kind(layer: nn.Module) -> Hashable:
    """Return what two layers that compute alike have in common."""
    classes = tuple(type(module) for module in layer.modules())
    shapes = tuple((name, tuple(p.shape)) for name, p in layer.named_parameters())
    settings = tuple(
        (path, name, value)
        for path, module in layer.named_modules()
        if not type(module).__module__.startswith(_OWN)
        for name, value in vars(module).items()
        if isinstance(value, (bool, int, float, str)) and name not in _PLACES
    )
    return classes, shapes, settings
