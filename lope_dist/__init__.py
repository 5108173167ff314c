"""LoPE fine-tuning of quantized language models on many devices.

The method is that of arXiv 2505.23868: LoRA with one shared matrix A and several
expert matrices B, one of them trained on injected noise and masked at inference.
"""

__version__ = "0.1.0"

_PUBLIC = {"load_quantized": "lope_dist.quantized"}
"""What is imported from here, and where it is; nothing heavy is imported before it is asked for."""
__all__ = ["__version__", "load_quantized"]


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        from importlib import import_module

        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lope_dist' has no attribute {name!r}")
