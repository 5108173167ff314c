"""What differs between models and is read off their structure: targets, streams, parts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from lope_dist.adapters.targets import CROSS_ATTENTION, default_targets, linear_layers
from lope_dist.core.errors import LopeError

_KEYS_AND_VALUES = re.compile(r"w?(k|v|kv|key|value)(_proj|_lin)?")


@dataclass(frozen=True)
class Family:
    """A model's structure, as far as adapters and data must know it."""

    targets: tuple[str, ...]
    """The paper's targets: query and value projections, or the fused ones; () if there are none."""
    is_encoder_decoder: bool = False
    stream_of: Callable[[str], str] = lambda name: "decoder"
    """Module name -> the token stream that the layer reads, `encoder` or `decoder`."""
    untrained: tuple[str, ...] = ()
    """Parts that read no text (of images, of sound): they stay as they are."""


def family_of(model: PreTrainedModel) -> Family:
    """Return a model's structure; with weights or on meta, before it has adapters.

    Raises:
        LopeError: an encoder-decoder whose cross-attention is not recognised.
    """
    is_encoder_decoder = bool(model.config.is_encoder_decoder)
    return Family(
        targets=default_targets(model),
        is_encoder_decoder=is_encoder_decoder,
        stream_of=_streams(model) if is_encoder_decoder else lambda name: "decoder",
        untrained=_untrained(model),
    )


def decoder_start_of(arch: PretrainedConfig) -> int | None:
    """Return the token that an encoder-decoder's decoder begins with; None of other models."""
    if not arch.is_encoder_decoder:
        return None
    start = getattr(arch, "decoder_start_token_id", None)
    decoder = getattr(arch, "decoder", None)  # T5Gemma's, which begins with its own first token
    start = getattr(decoder, "bos_token_id", None) if start is None else start
    assert start is not None, "an encoder-decoder's decoder begins with some token"
    return start


def num_positions(arch: PretrainedConfig) -> int | None:
    """Return how many tokens a model was made for; None where its configuration does not tell."""
    longest = getattr(arch.get_text_config(), "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else None


def has_position_table(model: PreTrainedModel) -> bool:
    """Return whether a model looks its positions up, so that it fails beyond the last one.

    The table is an embedding with a row for each position. Some keep two more, for padding.
    """
    longest = num_positions(model.config)
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", None)
    if longest is None:
        return False
    untrained = _untrained(model)
    tables = (
        module.num_embeddings
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and module is not model.get_input_embeddings()
        and not any(name.startswith(f"{part}.") for part in untrained)
    )
    return any(0 <= rows - longest <= 2 for rows in tables if rows != vocabulary)


def _streams(model: PreTrainedModel) -> Callable[[str], str]:
    """Return the streams of an encoder-decoder.

    Cross-attention's keys and values read the encoder's output, its queries the decoder.
    """
    names = {id(module): name for name, module in model.named_modules()}
    encoder, decoder = names[id(model.get_encoder())], names[id(model.get_decoder())]
    crossing = {
        name
        for name in linear_layers(model)
        if name.startswith(f"{decoder}.")
        and CROSS_ATTENTION.search(name)
        and _KEYS_AND_VALUES.fullmatch(name.rpartition(".")[2])
    }
    if not (encoder and decoder and crossing):
        raise LopeError(
            f"{type(model).__name__} is an encoder-decoder whose cross-attention is not "
            "recognised; those of T5, mT5, BART and T5Gemma are, and all decoder-only models."
        )

    def stream_of(name: str) -> str:
        return "encoder" if name in crossing or name.startswith(f"{encoder}.") else "decoder"

    return stream_of


def _untrained(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the outermost modules that hold linear layers and none that reads text."""
    text = set(linear_layers(model))
    outermost: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") for outer in outermost) or not name:
            continue
        inside = {
            f"{name}.{path}" if path else name
            for path, m in module.named_modules()
            if isinstance(m, nn.Linear)
        }
        if inside and not inside & text:
            outermost.append(name)
    return tuple(outermost)
