"""`--format peft`: the static LoRA in PEFT's format, for peft and servers that read it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from peft import LoraConfig, TaskType, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.evaluate.loaded.load import LoadedRun
from lope_dist.export.plain import PlainModel
from lope_dist.export.static import LowRank
from lope_dist.model.source import is_package, local_folder, model_folder, revision_of

_PREFIX = "base_model.model."


def peft_config(
    run: LoadedRun, plain: PlainModel, layers: Collection[str], beside: Path
) -> LoraConfig:
    """Return peft's configuration of the static LoRA; ``beside`` as for `base_address`.

    Raises:
        LopeError: peft refuses the model, or adapts other layers than the run.
    """
    base, revision = base_address(run.config.model, beside)
    adapter, arch = run.config.lope_adapter("lope export"), run.model.config
    alpha = int(adapter.lora_alpha)
    config = LoraConfig(
        r=adapter.rank,
        # Some servers take whole numbers alone; the rest is folded into B.
        lora_alpha=alpha if alpha == adapter.lora_alpha else adapter.rank,
        lora_dropout=adapter.dropout,
        target_modules=_targets(plain, layers),
        fan_in_fan_out=any(isinstance(plain.skeleton.get_submodule(n), Conv1D) for n in layers),
        task_type=TaskType.SEQ_2_SEQ_LM if arch.is_encoder_decoder else TaskType.CAUSAL_LM,
        base_model_name_or_path=base,
        revision=revision,
        inference_mode=True,
    )
    try:
        adapted = inject_adapter_in_model(config, plain.skeleton, low_cpu_mem_usage=True)
    except (ValueError, NotImplementedError, TypeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise LopeError(
            f"--format peft: peft does not adapt this {arch.model_type} model ({reason}); use "
            "--format merged."
        ) from None
    adapted_layers = {
        name for name, layer in adapted.named_modules() if isinstance(layer, LoraLayer)
    }
    if adapted_layers != set(layers):
        different = ", ".join(sorted(adapted_layers ^ set(layers))[:3])
        raise LopeError(
            f"--format peft: peft would not adapt the layers that the run has adapted "
            f"({different}); use --format merged."
        )
    return config


def write_peft(folder: Path, config: LoraConfig, layers: Mapping[str, LowRank]) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, float32."""
    if not isinstance(config.target_modules, str):
        # peft keeps a set, whose order differs from process to process; equal runs, equal files.
        config.target_modules = sorted(config.target_modules or ())
    config.save_pretrained(str(folder))
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        fold = layer.scaling * config.r / config.lora_alpha
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = layer.A_RD.contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = (layer.B_OR * fold).contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _targets(plain: PlainModel, layers: Collection[str]) -> list[str]:
    """Return the last parts of the layers' names, or the whole names where those say too much."""
    leaves = sorted({name.rpartition(".")[2] for name in layers})
    matching = {n for n, _ in plain.skeleton.named_modules() if n.rpartition(".")[2] in leaves}
    return leaves if matching == set(layers) else sorted(layers)


def base_address(settings: ModelConfig, beside: Path) -> tuple[str, str | None]:
    """Return what `from_pretrained` takes for the base, and its revision.

    A model of the hub by its name, with the commit that was read; a folder by its absolute path. A
    package is neither: its model is to be written ``beside`` the export.
    """
    if is_package(settings.name_or_path):
        return str(beside.resolve()), None
    if local_folder(settings) is not None:
        return str(model_folder(settings).resolve()), None
    return settings.name_or_path, revision_of(settings)
