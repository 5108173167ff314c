"""LoPE fine-tuning of quantized language models on many devices.

The method is that of arXiv 2505.23868: LoRA with one shared matrix A and several
expert matrices B, one of them trained on injected noise and masked at inference.
"""

__version__ = "0.1.0"

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lope_dist.quantized import load_quantized

__all__ = ["__version__", "load_quantized"]
_HOMES = {"load_quantized": "lope_dist.quantized"}
"""Where the public functions are; nothing heavy is imported before it is asked for."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'lope_dist' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
