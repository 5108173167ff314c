"""`adapter.targets` -> linear layers: names, patterns, `all-linear`, or the model's own default."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lope_dist.adapters.product import is_product, refuse_banks
from lope_dist.core.errors import LopeError, suggest

ALL_LINEAR = "all-linear"
_QUERY = re.compile(r"w?(q|query)(_b)?(_proj|_lin)?")
_VALUE = re.compile(r"w?(v|value|kv|kv_b)(_proj|_lin)?")
_FUSED = re.compile(r".*(qkv|kqv|query_key_value).*|c_attn")
_ROUTER = re.compile(r"(.*_)?(router|gate)")
_SHOWN = 12


def find_targets(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear]:
    """Return the linear layers that the targets name; every target must name one.

    A target is the last part of layers' names (`q_proj`), a dotted suffix of them, a pattern
    with `*`, `?` or `[...]` for whole names (`model.layers.[0-7].*_proj`; `*` crosses dots), or
    `all-linear`: every linear layer but the head, the routers of experts and those whose weight
    the model reads past the layer. Layers that read no text, as those of a vision tower, are
    never among them.

    Raises:
        LopeError: no target, one that matches no linear layer, or one that names an expert bank.
    """
    linear = linear_layers(model)
    leaves = list(dict.fromkeys(name.rpartition(".")[2] for name in linear))
    more = f" and {len(leaves) - _SHOWN} more" if len(leaves) > _SHOWN else ""
    kinds = f"Linear layers are: {', '.join(leaves[:_SHOWN])}{more}."
    if not targets:
        raise LopeError(
            f"adapter.targets names no layer of {type(model).__name__}, which has no query and "
            f"value projections of its own; name some, or set it to {ALL_LINEAR}. {kinds}"
        )
    refuse_banks(model, targets)
    targeted: dict[str, nn.Linear] = {}
    for target in targets:
        matching = _matching(model, linear, target)
        if not matching:
            raise LopeError(
                f"adapter.targets: '{target}' matches no linear layer of {type(model).__name__}. "
                f"{kinds}{suggest(target, [*leaves, ALL_LINEAR])}"
            )
        targeted |= matching
    return {name: layer for name, layer in linear.items() if name in targeted}


def default_targets(model: nn.Module) -> tuple[str, ...]:
    """Return the paper's targets: query and value projections, or the fused ones, by their names.

    A model without attention has the projection into its state-space mixers; () without those.
    """
    linear = linear_layers(model)
    siblings: dict[str, list[str]] = {}
    for name in linear:
        parent, _, leaf = name.rpartition(".")
        siblings.setdefault(parent, []).append(leaf)
    names: dict[str, None] = {}
    for leaves in siblings.values():
        fused = [leaf for leaf in leaves if _FUSED.fullmatch(leaf.lower())]
        queries, values = (
            [leaf for leaf in leaves if kind.fullmatch(leaf.lower())] for kind in (_QUERY, _VALUE)
        )
        chosen = fused or (queries and values and [*queries, *values]) or []
        names |= dict.fromkeys(chosen)
    if not names:
        convolves = {
            name.rpartition(".")[0]
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv1d)
        }
        names = (
            {"in_proj": None} if any("in_proj" in siblings.get(n, ()) for n in convolves) else {}
        )
    return tuple(names)


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers of any class in the part of a model that reads text, by name.

    GPT-2's `Conv1D` is one; a router or a head that does more than multiply is none. Of a layer
    with an adapter it is the base.
    """
    parts = _text_parts(model)
    return {
        name: module  # pyright: ignore[reportReturnType]
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and (parts is None or id(module) in parts)
        and is_product(module)
    }


def _matching(model: nn.Module, linear: dict[str, nn.Linear], target: str) -> dict[str, nn.Linear]:
    if target == ALL_LINEAR:
        head = _head(model)
        return {
            name: layer
            for name, layer in linear.items()
            if layer is not head
            and not _ROUTER.fullmatch(name.rpartition(".")[2])
            and not getattr(layer, "is_read_outside", False)
        }
    if any(sign in target for sign in "*?["):
        return {name: layer for name, layer in linear.items() if fnmatchcase(name, target)}
    return {
        name: layer
        for name, layer in linear.items()
        if name == target or name.endswith(f".{target}")
    }


def _text_parts(model: nn.Module) -> set[int] | None:
    """Return the modules that read text, by identity; None: all."""
    if not isinstance(model, PreTrainedModel):
        return None
    parts: list[Any] = [model.get_decoder(), _head(model)]
    if model.config.is_encoder_decoder:
        parts.append(model.get_encoder())
    return {id(module) for part in parts if part is not None for module in part.modules()}


def _head(model: nn.Module) -> Any:
    return model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
