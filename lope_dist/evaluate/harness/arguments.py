"""Which of lm-eval's `--model_args` act on a run; the others are refused.

`HFLM` takes any argument and applies many of them while it loads a model. A run is loaded as its
`run.yaml` says, so those would be passed over in silence.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerBase

from lope_dist.config.data import DataConfig
from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError, suggest
from lope_dist.corpus.tokens.template_source import TemplateSource
from lope_dist.evaluate.harness.batching import read_batch_size
from lope_dist.model.build import read_tokenizer
from lope_dist.model.source import description_folder

OWN = ("run", "experts")
_ACTING = (
    "add_bos_token",
    "backend",
    "batch_size",
    "chat_template_args",
    "enable_thinking",
    "logits_cache",
    "max_length",
    "mixed_precision_dtype",
    "prefix_token_id",
    "softmax_dtype",
    "think_end_token",
    "truncation",
)
_OF_LM_EVAL = frozenset(inspect.signature(HFLM.__init__).parameters) - {"self", "kwargs"}


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that would change nothing.

    Raises:
        LopeError: one that is not known, or that lm-eval applies while it loads a model; a batch
            size that there is not.
    """
    read_batch_size(str(arguments.get("batch_size", 1)))
    for name in arguments:
        if name in _ACTING:
            continue
        allowed = [*OWN, *_ACTING]
        if name in _OF_LM_EVAL:
            raise LopeError(
                f"--model_args {name}: has no effect on a run, which is loaded as its run.yaml "
                f"says; leave it out. Allowed: {', '.join(allowed)}."
            )
        raise LopeError(
            f"--model_args: '{name}' is not known; allowed: "
            f"{', '.join(allowed)}.{suggest(name, allowed)}"
        )


def check_device(name: str | None, device: torch.device) -> None:
    """Refuse another device than that of the weights.

    Raises:
        LopeError: it is another one.
    """
    if name is None:
        return
    asked = torch.device(name)
    is_other_index = device.type == "cuda" and asked.index not in (None, device.index)
    if asked.type != device.type or is_other_index:
        raise LopeError(
            f"--device {name}: the run was loaded on {device}; leave the option out, and choose a "
            "GPU by CUDA_VISIBLE_DEVICES."
        )


def tokenizer_with(
    arguments: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, config: ModelConfig
) -> PreTrainedTokenizerBase:
    """Return the tokenizer as `add_bos_token` makes it, or the run's where that is not given.

    Raises:
        LopeError: it does not do what is asked.
    """
    adds = arguments.get("add_bos_token")
    if adds is None:
        return tokenizer
    folder = description_folder(config)
    changed = read_tokenizer(folder, config, add_bos_token=adds)
    bos = changed.bos_token_id
    if (bos is not None and changed.encode("a")[:1] == [bos]) != bool(adds):
        raise LopeError(
            f"--model_args add_bos_token={adds}: the tokenizer of '{config.name_or_path}' does not "
            f"{'begin texts with a BOS token' if adds else 'leave its BOS token out'}, whatever it "
            "is asked; leave the argument out."
        )
    if changed.pad_token_id is None:
        changed.pad_token = changed.eos_token
    return changed


def template_arguments(tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> dict[str, Any]:
    """Return what `apply_chat_template` is given in training: template with date, and arguments.

    Raises:
        LopeError: the tokenizer has no template, or one that the arguments do not fit.
    """
    source = TemplateSource(tokenizer, data.template_arguments, data.template_date)
    return {"chat_template": source.text(None), **data.template_arguments}
