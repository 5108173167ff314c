"""A model on the meta device, with NF4 layers in place, from an architecture alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import GENERATION_CONFIG_NAME

from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError, first_line, suggest
from lope_dist.core.limits import bounded
from lope_dist.core.runlog import read_json
from lope_dist.model.attention import choose_attention, refuse_flash
from lope_dist.model.auto_class import auto_class, model_class
from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.model.dropout import switch_off_dropout, without_dropout
from lope_dist.model.frozen_layers import use_frozen_layers
from lope_dist.model.head_answer import returns_logits
from lope_dist.model.kernels import choose_kernels
from lope_dist.model.loss_head import LossHead
from lope_dist.model.placement import Placement
from lope_dist.model.plausible import refuse_endless
from lope_dist.model.prequantized import forget_packing
from lope_dist.model.quantization import quantization_of, refuse_what_is_left
from lope_dist.model.source import description_folder, local_folder, model_folder
from lope_dist.model.stream import load_weights
from lope_dist.model.weight_reads import mark_read_outside
from lope_dist.model.without_weights import without_weights

_IMPOSSIBLE = (ValueError, TypeError, ArithmeticError)
"""What transformers raises where numbers of an architecture do not go together."""
_MOST_SECONDS = 300.0
"""Of building the modules, without weights; the largest models take a few."""


def architecture(config: ModelConfig) -> PretrainedConfig:
    """Return the model's architecture: from the config if it states one, else from the model.

    Raises:
        LopeError: a stated architecture that transformers does not know or cannot have.
    """
    if config.architecture is not None:
        values = dict(config.architecture)
        model_type = values.pop("model_type", None)
        if model_type not in CONFIG_MAPPING:
            hint = suggest(str(model_type), CONFIG_MAPPING.keys())
            raise LopeError(
                f"model.architecture.model_type: transformers knows no {model_type!r}.{hint}"
            )
        refuse_endless(values, "model.architecture")
        if (folder := local_folder(config)) is not None:
            _check_architecture(config, folder)
        try:
            return AutoConfig.for_model(model_type, **values)
        except (StrictDataclassError, *_IMPOSSIBLE) as error:
            reason = " ".join(str(error.__cause__ or error).split()).rstrip(".")
            raise LopeError(f"model.architecture: {reason}.") from None
    return _architecture_of(description_folder(config), config)


def attention_of(config: ModelConfig, arch: PretrainedConfig, *, allows_flash: bool = True) -> str:
    """Return the attention that the model is built with; see `choose_attention`."""
    if config.runs_remote_code:
        return config.attention  # its class is not known yet, and transformers tells
    if has_alibi := bool(getattr(arch, "alibi", False)):
        refuse_flash(config.attention, "adds a bias (ALiBi) to its scores")
    auto = auto_class(arch, remote=False)
    allows_flash &= not has_alibi
    return choose_attention(
        config.attention, model_class(auto, arch), config.dtype, allows_flash=allows_flash
    )


def build_meta_model(config: ModelConfig, arch: PretrainedConfig) -> PreTrainedModel:
    """Return the model on the meta device (buffers are real), with our linear layers in it.

    Raises:
        LopeError: an architecture that cannot be, an attention that it does not have, or weights
            that are quantized in a way that is not read.
    """
    forget_packing(arch)
    without_dropout(arch)
    dtype = getattr(torch, config.dtype)
    auto = auto_class(arch, remote=config.runs_remote_code)
    attention = attention_of(config, arch)
    try:
        with (
            bounded(f"The {arch.model_type} architecture", seconds=_MOST_SECONDS),
            without_weights(),
        ):
            model = auto.from_config(
                arch,
                attn_implementation=None if attention == "auto" else attention,
                dtype=dtype,
                trust_remote_code=config.runs_remote_code,
            )
    except (ImportError, ValueError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise LopeError(
            f"A {arch.model_type} model with model.attention = '{config.attention}' and this "
            f"architecture cannot be built: {reason}."
        ) from None
    model.tie_weights()  # creating each parameter on meta by itself has untied them
    model.requires_grad_(False)
    switch_off_dropout(model)
    use_frozen_layers(model, config, model.get_output_embeddings(), dtype)
    mark_read_outside(model)
    refuse_what_is_left(quantization_of(model, config), arch.model_type)
    decide_head(model)
    choose_kernels(model, config.kernels)
    return model


def load_model(config: ModelConfig, placement: Placement, progress: bool) -> PreTrainedModel:
    """Return the pretrained model with its weights where ``placement`` puts them.

    Collective: yes, where the placement shards.

    Raises:
        LopeError: the folder's `config.json` differs from the stated architecture, or
            weights that do not fit.
    """
    folder = model_folder(config)
    arch = _architecture_of(folder, config)
    _check_architecture(config, folder)
    model = build_meta_model(config, arch)
    files = TensorFiles(folder)
    try:
        dtype = getattr(torch, config.dtype)
        load_weights(model, files, placement, dtype, config.load_buffer_mib << 20, progress)
    finally:
        files.close()
    decide_head(model)  # again: values in the files may be added to its answer
    if config.gradient_checkpointing:
        # The other kind compares shapes of what is saved twice, and fails in a second stage under
        # ZeRO-3, where parameters are released in between.
        model.gradient_checkpointing_enable({"use_reentrant": True})
        model.enable_input_require_grads()
    if (folder / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = _generation_config(folder)
    model.eval()
    return model


def _generation_config(folder: Path) -> GenerationConfig:
    """Read how the model's answers end, and how they are drawn where nothing else is said."""
    try:
        return GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise LopeError(
            f"{folder / GENERATION_CONFIG_NAME} cannot be read ({reason}); restore or remove it."
        ) from None


def decide_head(model: PreTrainedModel) -> None:
    """Let the head compute the loss if what it returns is the model's logits, unchanged."""
    head = model.get_output_embeddings()
    if isinstance(head, LossHead):
        head.is_final = returns_logits(model, head)


def read_tokenizer(folder: Path, config: ModelConfig, **options: Any) -> PreTrainedTokenizerBase:
    """Return a folder's tokenizer with the chat template that the configuration gives it."""
    tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=config.runs_remote_code, **options
    )
    if config.chat_template is not None:
        tokenizer.chat_template = config.chat_template
    return tokenizer


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer; a missing padding token becomes the end token.

    Raises:
        LopeError: its files are damaged.
    """
    folder = description_folder(config)
    try:
        tokenizer = read_tokenizer(folder, config)
    except Exception as error:  # of any kind: `tokenizers` raises no narrower one
        raise LopeError(
            f"{folder}: its tokenizer cannot be read ({first_line(error)}); copy tokenizer.json "
            "and tokenizer_config.json again."
        ) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _architecture_of(folder: Path, config: ModelConfig) -> PretrainedConfig:
    refuse_endless(_description(folder), str(folder / "config.json"))
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=config.runs_remote_code)
    except (OSError, StrictDataclassError, *_IMPOSSIBLE, KeyError) as error:
        reason = " ".join(str(error.__cause__ or error).split()).rstrip(".")
        raise LopeError(f"{folder / 'config.json'} cannot be used: {reason}.") from None


def _description(folder: Path) -> dict[str, Any]:
    """Return the content of a model's `config.json`."""
    values = read_json(folder / "config.json")
    if not isinstance(values, dict):
        raise LopeError(f"{folder / 'config.json'} is not a mapping of names to values.")
    return values


def _check_architecture(config: ModelConfig, folder: Path) -> None:
    stated = config.architecture or {}
    actual = _description(folder)
    different = list(_differences(stated, actual))
    if different:
        raise LopeError(
            f"model.architecture does not describe {config.name_or_path}: "
            f"{'; '.join(different)}. Correct it or leave it out."
        )


def _differences(stated: dict[str, Any], actual: dict[str, Any]) -> Iterator[str]:
    """Yield what is stated otherwise, in the configuration of each part."""
    for key, value in stated.items():
        if isinstance(value, dict) and isinstance(actual.get(key), dict):
            yield from (f"{key}.{each}" for each in _differences(value, actual[key]))
        elif key in actual and actual[key] != value:
            yield f"{key} is {actual[key]!r}, stated {value!r}"
