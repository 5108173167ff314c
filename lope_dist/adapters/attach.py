"""Put a baseline's adapter into a model, the way `inject` puts LoPE's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from lope_dist.adapters import embedding_noise
from lope_dist.adapters.adalora import inject_adalora
from lope_dist.adapters.context import AdapterContext
from lope_dist.adapters.prompts import attach_prompt
from lope_dist.config.baselines import AdaLoraConfig, BaselineConfig


def attach(
    model: PreTrainedModel,
    config: BaselineConfig,
    *,
    targets: Sequence[str],
    stream_of: Callable[[str], str],
    seed: int,
) -> AdapterContext:
    """Freeze the model, add the baseline and hook the embedding noise.

    Arguments are those of `inject`; ``targets`` matter to AdaLoRA alone.

    Returns:
        The context, also kept as ``model.lope_context``: `all` and `none` are its choices.

    Raises:
        LopeError: targets that match no linear layer, or a model that cannot take the baseline.
    """
    assert not hasattr(model, "lope_context"), "the model has its adapters already"
    is_encoder_decoder = bool(model.config.is_encoder_decoder)
    context = AdapterContext(
        num_normal=config.num_normal,
        num_poison=config.num_poison,
        compensation=config.compensation,
        noise_stream="encoder" if is_encoder_decoder else "decoder",
    )
    model.requires_grad_(False)
    if isinstance(config, AdaLoraConfig):
        inject_adalora(model, config, context, targets=targets, stream_of=stream_of, seed=seed)
    else:
        attach_prompt(model, config, context, seed=seed)
    embedding_noise.install(model, context, seed)
    model.lope_context = context  # type: ignore[assignment]
    return context
