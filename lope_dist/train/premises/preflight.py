"""What can be found wrong before any weight is read."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from transformers import PretrainedConfig, PreTrainedModel

from lope_dist.adapters.attach import attach
from lope_dist.adapters.context import AdapterContext
from lope_dist.adapters.inject import inject
from lope_dist.config.adapter import AdapterConfig
from lope_dist.config.baselines import PromptConfig
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.feed.loader import check_packing
from lope_dist.model.build import architecture, attention_of, build_meta_model
from lope_dist.model.families import Family, family_of, has_position_table, num_positions
from lope_dist.noise.mix import check_operations
from lope_dist.train.premises.mixed_lengths import mixed_lengths


@dataclass(frozen=True)
class Plan:
    """A run's model on the meta device, adapters in place."""

    model: PreTrainedModel
    family: Family
    config: RunConfig
    """The run's, with what its structure and this host decide in the place of `auto`."""


def preflight(config: RunConfig) -> Plan:
    """Build the model without weights and inject the adapters.

    Raises:
        LopeError: an unknown noise operation or architecture, an attention that the model does
            not have, a target that matches no layer, packing or routed gradients with an
            encoder-decoder, or recomputation of layers that share keys and values.
    """
    check_operations(config.noise)
    arch = architecture(config.model)
    check_packing(config.data, arch.is_encoder_decoder)
    _check_recomputation(config, arch)
    _check_routing(config, arch.is_encoder_decoder)
    config = _settled(config, arch)
    model = build_meta_model(config.model, arch)
    family = family_of(model)
    adapt(model, config, family)
    return Plan(model, family, config)


def check_length(config: RunConfig, model: PreTrainedModel, *, has_begun: bool = False) -> None:
    """Refuse rows longer than the model can compute as they are alone.

    ``has_begun``: the run is in its folder, and its length cannot be changed: it is told on stderr.

    Raises:
        LopeError: a length beyond the positions of which the model has an embedding, or at which
            one example changes the positions of another.
    """
    mixed, reason = mixed_lengths(config, model.config), beyond_positions(config, model.config)
    if mixed is None and reason and has_position_table(model):
        mixed = f"{reason}, and it has an embedding of no others", "set a smaller data.max_length"
    if mixed is None:
        return
    reason, remedy = mixed
    if not has_begun:
        raise LopeError(f"{reason}; {remedy}.")
    print(f"{reason}. The run has begun, and goes on: let no row be that long.", file=sys.stderr)


def _settled(config: RunConfig, arch: PretrainedConfig) -> RunConfig:
    """Return the configuration with attention chosen, and packing off where it cannot be."""
    packing = config.data.packing
    if packing == "auto" and (arch.is_encoder_decoder or isinstance(config.adapter, PromptConfig)):
        packing = False
    # FlashAttention keeps packed examples apart only in a batch of one row.
    allows_flash = packing is False or config.train.micro_batch == 1
    attention = attention_of(config.model, arch, allows_flash=allows_flash)
    return with_settled(config, attention=attention, packing=packing)


def with_settled(config: RunConfig, *, attention: str, packing: bool | str) -> RunConfig:
    """Return the configuration with these values of `model.attention` and `data.packing`."""
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"attention": attention}),
            "data": config.data.model_copy(update={"packing": packing}),
        }
    )


def beyond_positions(config: RunConfig, arch: PretrainedConfig) -> str | None:
    """Return in words that rows may be longer than what the model was made for; None: they fit."""
    longest, length = num_positions(arch), config.data.max_length
    virtual = getattr(config.adapter, "num_virtual_tokens", 0)
    if longest is None or length + virtual <= longest:
        return None
    more = f" with adapter.num_virtual_tokens = {virtual}" if virtual else ""
    return (
        f"data.max_length = {length}{more} is more than the {longest} positions that the model was "
        f"made for (at most {longest - virtual} fits)"
    )


def num_sharing_layers(arch: PretrainedConfig) -> int:
    """Return how many layers read the keys and values of earlier ones: none is recomputed then."""
    return getattr(arch.get_text_config(), "num_kv_shared_layers", 0) or 0


def _check_recomputation(config: RunConfig, arch: PretrainedConfig) -> None:
    """Refuse to recompute layers that read keys and values of an earlier one.

    A layer is recomputed by itself: what it reads of another one has no gradient then.
    """
    num_shared = num_sharing_layers(arch)
    if config.model.gradient_checkpointing and num_shared:
        raise LopeError(
            f"model.gradient_checkpointing = true with {arch.model_type}, whose last {num_shared} "
            "layers read the keys and values of earlier ones: the gradients would be wrong. Set "
            "model.gradient_checkpointing=false, and where memory is short a smaller "
            "train.micro_batch."
        )


def _check_routing(config: RunConfig, is_encoder_decoder: bool) -> None:
    routing = [name for name, stage in config.train.stages.items() if stage.gradient_routing]
    if routing and is_encoder_decoder:
        raise LopeError(
            f"train.stages.{routing[0]}.gradient_routing works with decoder-only models alone: it "
            "marks tokens by whether the model must predict them next. This is an encoder-decoder "
            "model; leave the key out."
        )


def adapt(model: PreTrainedModel, config: RunConfig, family: Family) -> AdapterContext:
    """Inject the configured adapters into a model, with weights or on meta."""
    adapter, seed = config.adapter, config.seed
    targets, stream_of = adapter.targets or family.targets, family.stream_of
    if isinstance(adapter, AdapterConfig):
        return inject(model, adapter, targets=targets, stream_of=stream_of, seed=seed)
    return attach(model, adapter, targets=targets, stream_of=stream_of, seed=seed)
