"""The base's own randomness is off: its draws would depend on the ranks, and it is frozen.

Transformers has many names for it, in configurations and in modules. What this file misses is
found by measuring (`probes.py`): two training forwards of one input must be equal.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from transformers import PretrainedConfig

_RANDOM = re.compile(r"drop(out|path|_path)?|jitter", re.IGNORECASE)
"""Names of probabilities and widths of draws: `resid_pdrop`, `layerdrop`, `router_jitter_noise`."""


def without_dropout(arch: PretrainedConfig) -> None:
    """Set every dropout and jitter of a configuration to 0, those of its parts too."""
    for name, value in vars(arch).items():
        if isinstance(value, PretrainedConfig):
            without_dropout(value)
        elif _RANDOM.search(name) and _is_number(value):
            setattr(arch, name, type(value)(0))


def switch_off_dropout(model: nn.Module) -> None:
    """Set every dropout and jitter that the modules themselves hold to 0."""
    for module in model.modules():
        is_dropout = bool(_RANDOM.search(type(module).__name__))
        for name, value in list(vars(module).items()):
            if _is_number(value) and (_RANDOM.search(name) or (is_dropout and name == "p")):
                setattr(module, name, type(value)(0))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
