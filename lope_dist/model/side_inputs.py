"""What a layer reads of another one beside the hidden states that it is handed.

A layer that is recomputed is differentiated by itself: only its positional arguments have a
gradient. Keys and values that an earlier layer left in a cache or a dictionary have none.

Nothing is differentiated here. A forward pass builds each layer's graph, of which no value is
kept, and the graph says where what the layer returns comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers.modeling_layers import GradientCheckpointingLayer


def side_inputs(layers: Mapping[str, nn.Module], forward: Callable[[], object]) -> dict[str, str]:
    """Return what each layer reads that would have no gradient were the layer recomputed, in words.

    Args:
        layers: Layers by name; each takes its hidden states first, or as ``hidden_states``.
        forward: Asks their model once, in evaluation mode.

    Collective: as ``forward`` is.
    """
    graphs = _Graphs()
    with ExitStack() as stack:
        for name, layer in layers.items():
            enter = layer.register_forward_pre_hook(graphs.enter(name), with_kwargs=True)
            stack.callback(enter.remove)
            stack.callback(layer.register_forward_hook(graphs.leave(name)).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(saved_tensors_hooks(_dropped, lambda value: value))
        forward()
    return graphs.read


class _Graphs:
    """The hooks that give each layer a graph of its own, from its hidden states to its output."""

    def __init__(self) -> None:
        self.read: dict[str, str] = {}
        self._layer_of: dict[Tensor, str] = {}

    def enter(self, name: str) -> Callable[..., tuple[Any, dict[str, Any]]]:
        def hook(
            layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[Any, dict[str, Any]]:
            torch.set_grad_enabled(True)
            if args and isinstance(args[0], Tensor):
                return (self._started(name, args[0]), *args[1:]), kwargs
            if isinstance(hidden := kwargs.get("hidden_states"), Tensor):
                if isinstance(layer, GradientCheckpointingLayer):
                    self.read[name] = "its hidden states as a keyword argument"
                return args, {**kwargs, "hidden_states": self._started(name, hidden)}
            return args, kwargs

        return hook

    def leave(self, name: str) -> Callable[..., Any]:
        def hook(_layer: nn.Module, _args: Any, output: Any) -> Any:
            torch.set_grad_enabled(False)
            others = {self._layer_of.get(leaf, name) for leaf in _leaves(output)} - {name}
            if others:
                self.read[name] = f"what '{min(others)}' computed"
            return _without_graph(output)

        return hook

    def _started(self, name: str, hidden: Tensor) -> Tensor:
        leaf = hidden.detach()
        if leaf.is_floating_point():
            leaf.requires_grad_()
            self._layer_of[leaf] = name
        return leaf


def _leaves(output: Any) -> Iterator[Tensor]:
    """Yield the leaves that a layer's output depends on."""
    nodes = [tensor.grad_fn for tensor in _tensors(output)]
    seen = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            yield leaf
        nodes.extend(each for each, _ in node.next_functions)


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple)):
        for each in output:
            yield from _tensors(each)


def _without_graph(output: Any) -> Any:
    """Return what a layer hands on, as no longer depending on its input."""
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, (list, tuple)):
        return type(output)(map(_without_graph, output))
    return output


def _dropped(_value: Any) -> None:
    """Stand for a value that no one asks for again."""
