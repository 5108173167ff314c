"""`model.attention` -> the implementation that a model is built with."""

from __future__ import annotations

from typing import Any

import torch
from transformers.utils import is_flash_attn_2_available

from lope_dist.core.errors import LopeError

FLASH = "flash_attention_2"


def flash_runs_here(dtype: str) -> bool:
    """Return whether this host computes FlashAttention in `model.dtype`."""
    return torch.cuda.is_available() and is_flash_attn_2_available() and dtype == "bfloat16"


def refuse_flash(requested: str, why: str) -> None:
    """Refuse FlashAttention for a model that it cannot compute; ``why`` follows "the model".

    Raises:
        LopeError: it is requested.
    """
    if requested == FLASH:
        raise LopeError(
            f"model.attention = '{FLASH}', and the model {why}; set model.attention=auto."
        )


def choose_attention(
    requested: str, model_class: type[Any], dtype: str, *, allows_flash: bool = True
) -> str:
    """Return the implementation to build with: the requested one, or the fastest for `auto`.

    Args:
        requested: `model.attention`.
        model_class: The class of transformers that is built.
        dtype: `model.dtype`; FlashAttention computes in 16 bits alone.
        allows_flash: Whether the run's rows are of a form that FlashAttention keeps apart.

    Raises:
        LopeError: an explicit one that this model does not have, or that is not installed.
    """
    has_sdpa = bool(getattr(model_class, "_supports_sdpa", False))
    # Some models compute with other implementations than flash-attn's alone.
    known = getattr(model_class, "_compatible_flash_implementations", None)
    has_flash = bool(getattr(model_class, "_supports_flash_attn", False))
    has_flash &= known is None or FLASH in known
    flash_runs = flash_runs_here(dtype)
    if requested == "auto":
        if has_flash and flash_runs and allows_flash:
            return FLASH
        return "sdpa" if has_sdpa else "eager"
    if requested == "eager" or (requested == "sdpa" and has_sdpa):
        return requested
    if requested == FLASH and has_flash and flash_runs:
        return requested
    allowed = ["auto", "eager", *["sdpa"] * has_sdpa, *[FLASH] * (has_flash and flash_runs)]
    reason = "which this model does not have"
    if requested == FLASH and has_flash:
        reason = "which needs a CUDA device, the package flash-attn and model.dtype=bfloat16"
    raise LopeError(
        f"model.attention = '{requested}' with {model_class.__name__}, {reason}; allowed here: "
        f"{', '.join(allowed)}."
    )
