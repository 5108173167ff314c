"""The base's own randomness is off: its draws would depend on the ranks, and it is frozen.

Transformers has many names for it, in configurations and in modules. What this file misses is
found by measuring (`probes.py`): two training forwards of one input must be equal.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from transformers import PretrainedConfig

_DROPOUT = re.compile(r"drop(out|path|_path)?", re.IGNORECASE)
"""Names of probabilities: `resid_pdrop`, `layerdrop`, `attention_dropout`."""
_JITTER = re.compile(r"jitter", re.IGNORECASE)
"""Names of widths of a router's draws. PhiMoE computes with them in evaluation too, and so they
stay, but the modules that hold them never train."""


def without_dropout(arch: PretrainedConfig) -> None:
    """Set every dropout of a configuration to 0, those of its parts too."""
    for name, value in vars(arch).items():
        if isinstance(value, PretrainedConfig):
            without_dropout(value)
        elif _DROPOUT.search(name) and _is_number(value):
            setattr(arch, name, type(value)(0))


def switch_off_dropout(model: nn.Module) -> None:
    """Set every dropout that the modules themselves hold to 0, and switch off their jitter."""
    for module in model.modules():
        is_dropout = bool(_DROPOUT.search(type(module).__name__))
        for name, value in list(vars(module).items()):
            if not _is_number(value):
                continue
            if _DROPOUT.search(name) or (is_dropout and name == "p"):
                setattr(module, name, type(value)(0))
            elif _JITTER.search(name):
                _never_train(module)


def _never_train(module: nn.Module) -> None:
    """Keep a module in evaluation mode for good, whatever its children are told."""

    def train(mode: bool = True) -> nn.Module:
        nn.Module.train(module, mode)
        module.training = False
        return module

    module.training = False
    module.train = train


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
