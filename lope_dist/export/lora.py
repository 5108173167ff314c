"""`--format peft`: the static LoRA in PEFT's format, for peft and servers that read it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from peft import LoraConfig, TaskType
from safetensors.torch import save_file
from torch import Tensor

from lope_dist.evaluate.load import LoadedRun
from lope_dist.export.static import LowRank
from lope_dist.model.families import family_of

_PREFIX = "base_model.model."


def write_peft(folder: Path, run: LoadedRun, layers: Mapping[str, LowRank]) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, float32."""
    adapter, arch = run.config.lope_adapter("lope export"), run.model.config
    family = family_of(arch.model_type, adapter.targets, arch.is_encoder_decoder)
    alpha, fold = int(adapter.lora_alpha), 1.0
    if alpha != adapter.lora_alpha:  # some servers take whole numbers alone
        alpha, fold = adapter.rank, adapter.scaling
    LoraConfig(
        r=adapter.rank,
        lora_alpha=alpha,
        lora_dropout=adapter.dropout,
        target_modules=list(adapter.targets or family.targets),
        task_type=TaskType.SEQ_2_SEQ_LM if arch.is_encoder_decoder else TaskType.CAUSAL_LM,
        base_model_name_or_path=run.config.model.name_or_path,
        revision=run.config.model.revision,
        inference_mode=True,
    ).save_pretrained(str(folder))
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = layer.A_RD.contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = (layer.B_OR * fold).contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
