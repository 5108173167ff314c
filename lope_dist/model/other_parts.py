"""Tensors of the parts that a model leaves out, as a text model does with the vision tower."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import torch
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lope_dist.model.name_mapping import map_names


def of_other_parts(
    model: PreTrainedModel, names: Collection[str], folder: Path, dtype: torch.dtype
) -> set[str]:
    """Return which file tensors have a place in the folder's whole model, if that is another one.

    Such are no mistake: transformers makes the text model alone for some vision-language models.

    Args:
        model: Without a place for any of the tensors.
        names: The tensors.
        folder: The model's, with its `config.json`.
        dtype: What the model is loaded in.
    """
    config = folder / "config.json"
    model_type = json.loads(config.read_text()).get("model_type") if config.is_file() else None
    if not names or model_type == model.config.model_type or model_type not in CONFIG_MAPPING:
        return set()
    arch = AutoConfig.from_pretrained(folder)
    if type(arch) not in AutoModelForImageTextToText._model_mapping:
        return set()
    with init_empty_weights():
        whole = AutoModelForImageTextToText.from_config(arch)
    return set(names) - set(map_names(whole, names, dtype).unexpected)
