"""`adapter.targets` -> linear layers: names, patterns, `all-linear`, or the model's own default."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lope_dist.adapters.product import is_product, modules_with_banks, refuse_banks
from lope_dist.core.errors import LopeError, suggest

ALL_LINEAR = "all-linear"
_QUERY = re.compile(r"w?(q|query)(_b)?(_proj|_lin)?")
_VALUE = re.compile(r"w?(v|value|kv|kv_b)(_proj|_lin)?")
_FUSED = re.compile(r".*(qkv|kqv|query_key_value).*|c_attn")
_ROUTER = re.compile(r"(.*_)?(router|gate)")
CROSS_ATTENTION = re.compile(
    r"EncDecAttention|encoder_attn|cross_?attn|cross_?attention", re.IGNORECASE
)
"""Names of modules in which a decoder reads something else than its own tokens."""
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
    A decoder-only model's cross-attention reads no text, so where it shares their names they are
    dotted suffixes.
    """
    linear = linear_layers(model)
    siblings: dict[str, list[str]] = {}
    for name in linear:
        parent, _, leaf = name.rpartition(".")
        siblings.setdefault(parent, []).append(leaf)
    crossing: set[str] = set()
    if not (isinstance(model, PreTrainedModel) and model.config.is_encoder_decoder):
        crossed = [parent for parent in siblings if CROSS_ATTENTION.search(parent)]
        crossing = {leaf for parent in crossed for leaf in siblings.pop(parent)}
    names: dict[str, None] = {}
    for parent, leaves in siblings.items():
        fused = [leaf for leaf in leaves if _FUSED.fullmatch(leaf.lower())]
        queries, values = (
            [leaf for leaf in leaves if kind.fullmatch(leaf.lower())] for kind in (_QUERY, _VALUE)
        )
        chosen = fused or (queries and values and [*queries, *values]) or []
        inside = parent.rpartition(".")[2]
        names |= {(f"{inside}.{leaf}" if leaf in crossing else leaf): None for leaf in chosen}
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
    text = text_modules(model)
    return {
        name: module  # pyright: ignore[reportReturnType]
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module in text and is_product(module)
    }


def _matching(model: nn.Module, linear: dict[str, nn.Linear], target: str) -> dict[str, nn.Linear]:
    if target == ALL_LINEAR:
        head = _head(model)
        routing = routers_beside(model, modules_with_banks(model))
        return {
            name: layer
            for name, layer in linear.items()
            if layer is not head
            and layer not in routing
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


def routers_beside(model: nn.Module, banks: Iterable[str]) -> set[nn.Module]:
    """Return all modules of the routers, by their names, that stand beside banks of experts.

    Args:
        model: With the banks.
        banks: Their names.
    """
    blocks = {model.get_submodule(name.rpartition(".")[0]) for name in banks}
    return {
        module
        for block in blocks
        for name, sibling in block.named_children()
        if _ROUTER.fullmatch(name)
        for module in sibling.modules()
    }


def text_modules(model: nn.Module) -> set[nn.Module]:
    """Return the modules that read text.

    A decoder or an encoder may hold other models, of images or of sound: a child in which such a
    model is reads no text.
    """
    if not isinstance(model, PreTrainedModel):
        return set(model.modules())
    parts: list[Any] = [model.get_decoder()]
    if model.config.is_encoder_decoder:
        parts.append(model.get_encoder())
    modules = [module for part in parts if part is not None for module in _reading_text(part)]
    head = _head(model)
    return {*modules, *(head.modules() if head is not None else ())}


def _reading_text(part: nn.Module) -> list[nn.Module]:
    """Return a decoder's or an encoder's modules but those of images and sound inside."""
    if not isinstance(part, PreTrainedModel):
        return list(part.modules())
    kind = type(part.config.get_text_config())
    inside = [module for module in part.modules() if isinstance(module, PreTrainedModel)]
    part = next((module for module in inside if type(module.config) is kind), part)
    others = {module for module in inside if "text" not in module.input_modalities}
    left_out = {
        module
        for child in part.children()
        if any(module in others for module in child.modules())
        for module in child.modules()
    }
    return [module for module in part.modules() if module not in left_out]


def _head(model: nn.Module) -> Any:
    return model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
