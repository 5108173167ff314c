"""Put LoPE layers into a model, initialise them, choose what trains."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import nn

from lope_dist.adapters import embedding_noise
from lope_dist.adapters.base import AdapterModule, adapter_modules
from lope_dist.adapters.context import AdapterContext
from lope_dist.adapters.lope import LopeLinear, model_roles
from lope_dist.adapters.targets import find_targets
from lope_dist.config.adapter import AdapterConfig
from lope_dist.core.roles import Role


def inject(
    model: nn.Module,
    config: AdapterConfig,
    *,
    targets: Sequence[str],
    stream_of: Callable[[str], str],
    seed: int,
) -> AdapterContext:
    """Wrap the matching linear layers, freeze the rest and hook the embedding noise.

    The adapters take the device of the layer they wrap and are initialised there; on the
    meta device they stay without values until `initialize`. Every adapter parameter is
    trainable at first: `set_trainable` chooses.

    Args:
        model: A transformers model; nn.Linear and its subclasses (NF4 too) can be wrapped.
        config: The layers' shape.
        targets: As `targets.find_targets` takes them.
        stream_of: Layer name -> `decoder` or `encoder`, the tokens that it reads.
        seed: Of initial values, dropout and embedding noise.

    Returns:
        The context that all layers read, also kept as ``model.lope_context``.

    Raises:
        LopeError: no target, or one that matches no linear layer.
    """
    assert not hasattr(model, "lope_context"), "the model has its adapters already"
    targeted = find_targets(model, targets)
    is_encoder_decoder = bool(getattr(model.config, "is_encoder_decoder", False))
    context = AdapterContext(
        num_normal=config.num_normal,
        num_poison=config.num_poison,
        compensation=config.compensation,
        noise_stream="encoder" if is_encoder_decoder else "decoder",
    )
    model.requires_grad_(False)
    for name, base in targeted.items():
        layer = LopeLinear(
            base,
            config,
            context,
            name=name,
            stream=stream_of(name),
            seed=seed,
            device=next(base.parameters()).device,
        )
        layer.train(base.training)
        if not layer.lope.A.is_meta:
            initialize_module(layer)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)
    embedding_noise.install(model, context, seed)
    model.lope_context = context  # type: ignore[assignment]
    return context


def initialize(model: nn.Module) -> None:
    """Give every adapter parameter its initial value, in place, where it is."""
    for module in adapter_modules(model).values():
        initialize_module(module)


def set_trainable(model: nn.Module, roles: Collection[Role]) -> None:
    """Let exactly the parameters of these roles train."""
    role_of = model_roles(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(role_of[name] in roles)


def initialize_module(module: AdapterModule) -> None:
    """Give one module's adapter parameters their initial values, in place."""
    assert isinstance(module, nn.Module)
    with torch.no_grad():
        for name, value in module.initial_values().items():
            module.get_parameter(name).copy_(value)
