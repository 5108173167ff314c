"""`meta` as a device of its own: a training step on it shows what a GPU would have to wait for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig

from lope_dist.adapters.inject import inject
from lope_dist.config.adapter import AdapterConfig
from lope_dist.config.model import ModelConfig
from lope_dist.model.build import build_meta_model
from lope_dist.model.nf4 import NF4Linear, quantize_scales
from lope_dist.model.nf4_layout import BLOCK

META = torch.device("meta")
ROWS, LENGTH = 3, 16
READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")


class OneDevice(TorchDispatchMode):
    """Refuses operators on tensors of two devices, but for copies and scalars.

    ``reads``: how often a value of the device was read on the host; the answer is a 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        tensors = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, torch.Tensor)]
        devices = {t.device for t in tensors if t.dim()}
        assert len(devices) <= 1 or name in ("copy_", "_to_copy"), f"{name} on {devices}"
        if name in READS and any(t.device == META for t in tensors):
            self.reads[name] += 1
            if name == "_local_scalar_dense":
                return tensors[0].dtype is torch.bool or 1
        return func(*args, **(kwargs or {}))


def loaded_on_meta(**settings: Any) -> Any:
    """Return a small NF4 Llama with adapters, as if it were loaded, without a value."""
    shape = LlamaConfig(
        vocab_size=80,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = build_meta_model(ModelConfig(name_or_path="x"), shape)
    for layer in model.modules():
        if isinstance(layer, NF4Linear):
            elements = torch.empty(layer.layout.num_elements, dtype=torch.bfloat16, device=META)
            layer.weight = torch.nn.Parameter(elements, requires_grad=False)
            layer.nested_scales = quantize_scales(torch.empty(BLOCK, device=META))[1]
    torch.nn.Module.to(model, META)
    config = AdapterConfig.model_validate(settings)
    inject(model, config, targets=("q_proj", "v_proj"), stream_of=lambda _: "decoder", seed=0)
    return model
