"""Which class of transformers a model is built as."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
)

from lope_dist.core.errors import LopeError


def auto_class(arch: PretrainedConfig, *, remote: bool) -> Any:
    """Return the auto class that builds the model with its head.

    Of a vision-language model that is the whole of it: its text part is trained.

    Raises:
        LopeError: a model that predicts no tokens.
    """
    if arch.is_encoder_decoder:
        kinds = [AutoModelForSeq2SeqLM]
    else:
        kinds = [AutoModelForCausalLM, AutoModelForImageTextToText]
    for kind in kinds:
        if type(arch) in kind._model_mapping:
            return kind
    if remote:
        return kinds[0]
    raise LopeError(
        f"model.name_or_path: a {arch.model_type} model has no form in transformers that predicts "
        "the next token of a text; take a causal, encoder-decoder or vision-language model."
    )


def model_class(auto: Any, arch: PretrainedConfig) -> type[Any]:
    """Return the class of a model of transformers' own."""
    mapped = auto._model_mapping[type(arch)]
    return mapped[0] if isinstance(mapped, tuple) else mapped
