"""LoPE fine-tuning of quantized language models on many devices.

The method is that of arXiv 2505.23868: LoRA with one shared matrix A and several
expert matrices B, one of them trained on injected noise and masked at inference.

What a notebook needs is imported from here; `docs/python.md` has an example. Each name is loaded
when it is first asked for, so that `import lope_dist` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lope_dist import train as train
    from lope_dist.config.load import load_config as load_config
    from lope_dist.core.errors import LopeError as LopeError
    from lope_dist.evaluate.asking import Decoding as Decoding
    from lope_dist.evaluate.asking import generate as generate
    from lope_dist.evaluate.loaded.load import load_run as load_run
    from lope_dist.evaluate.losses.measure import LossRequest as LossRequest
    from lope_dist.evaluate.losses.measure import measure_losses as measure_losses
    from lope_dist.export.run import ExportRequest as ExportRequest
    from lope_dist.export.run import export_run as export_run
    from lope_dist.quantized import load_quantized as load_quantized

__version__ = "0.1.0"

_HOMES = {
    "LopeError": "core.errors",
    "load_config": "config.load",
    "load_run": "evaluate.loaded.load",
    "Decoding": "evaluate.asking",
    "generate": "evaluate.asking",
    "LossRequest": "evaluate.losses.measure",
    "measure_losses": "evaluate.losses.measure",
    "ExportRequest": "export.run",
    "export_run": "export.run",
    "load_quantized": "quantized",
}
"""Name -> the module that has it."""

__all__ = [
    "Decoding",
    "ExportRequest",
    "LopeError",
    "LossRequest",
    "export_run",
    "generate",
    "load_config",
    "load_quantized",
    "load_run",
    "measure_losses",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
