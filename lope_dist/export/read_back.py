"""An export as its readers have it: read from disk by transformers and peft, nothing of ours.

The model that is read has the base's dtype. Where it does not fit into the memory of the run's
device, beside the run's own model, it is read into the host's; and where it does not fit there,
accelerate leaves on disk what is left over.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from lope_dist.core.bars import transformers_bars_on_a_terminal
from lope_dist.core.errors import LopeError
from lope_dist.engine.gathering import Weights
from lope_dist.evaluate.loaded.load import LoadedRun
from lope_dist.export.merged import write_merged
from lope_dist.export.plain import PlainModel, plain_layers
from lope_dist.export.static import LowRank
from lope_dist.model.source import model_folder

_HEADROOM = 0.8  # of the free memory; the rest is for activations


Layers = Mapping[str, LowRank]


@contextmanager
def read_merged(
    folder: Path, run: LoadedRun, plain: PlainModel, weights: Weights, layers: Layers
) -> Iterator[nn.Module]:
    """Context with a merged export, read by transformers.

    Raises:
        LopeError: the files do not hold just what transformers looks for, or other values.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".offload.") as offload:
        model = _from_pretrained(folder, run, plain, offload)
        for layer in plain_layers(run, plain, weights, layers):
            for name, tensor in layer.items():
                _refuse_other(name, _value(model, name), tensor)
        yield model


@contextmanager
def read_peft(
    folder: Path, run: LoadedRun, plain: PlainModel, weights: Weights, layers: Layers
) -> Iterator[nn.Module]:
    """Context with a PEFT export, read by peft, on the base as the run was trained on it.

    A quantized base is dequantized first, into a folder that is gone afterwards.

    Raises:
        LopeError: transformers cannot read the base or peft the adapter, or it has other values.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".base.") as scratch:
        source = model_folder(run.config.model)
        if run.config.model.quantization != "none":
            source = Path(scratch, "base")
            source.mkdir()
            write_merged(source, run, plain, weights, {})
        base = _from_pretrained(source, run, plain, scratch)
        try:
            model = PeftModel.from_pretrained(base, str(folder)).eval()
        except (KeyError, ValueError, RuntimeError) as error:
            is_on_disk = "disk" in getattr(base, "hf_device_map", {}).values()
            memory = " on a base that is left on disk; more memory may help" * is_on_disk
            raise LopeError(
                f"peft cannot read back its adapter of {type(base).__name__}{memory} ({error!r}); "
                "the export was not kept."
            ) from error
        for name, low in layers.items():
            lora: Any = base.get_submodule(name)
            _refuse_other(f"{name}.lora_A", lora.lora_A["default"].weight, low.A_RD)
            B_OR = lora.lora_B["default"].weight * lora.scaling["default"]
            _refuse_other(f"{name}.lora_B", B_OR, low.B_OR * low.scaling)
        yield model


def _from_pretrained(
    folder: Path, run: LoadedRun, plain: PlainModel, offload: str
) -> PreTrainedModel:
    settings = run.config.model
    dtype = getattr(torch, settings.dtype)
    size = sum(p.numel() for p in plain.skeleton.parameters()) * dtype.itemsize
    devices = (run.model.device, torch.device("cpu"))
    device = next((d for d in devices if size < _HEADROOM * _free_bytes(d)), None)
    device_options: dict[str, Any] = {"device_map": "auto", "offload_folder": offload}
    if device is not None:
        device_options = {"device_map": {"": str(device)}}
    name = type(run.model).__name__
    try:
        with transformers_bars_on_a_terminal():
            model, loading_info = type(run.model).from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                folder,
                dtype=dtype,
                attn_implementation=run.model.config._attn_implementation,
                output_loading_info=True,
                **device_options,
            )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise LopeError(
            f"transformers cannot read back {name} ({reason}); the export was not kept."
        ) from error
    wrong = {key: sorted(map(str, names)) for key, names in loading_info.items() if names}
    if wrong:
        unlike = "; ".join(f"{key}: {', '.join(names[:3])}" for key, names in wrong.items())
        raise LopeError(
            f"transformers looks for other tensors of {name} than there are ({unlike}); the export "
            "was not kept, please report the model."
        )
    return model.eval()


def _value(model: nn.Module, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), leaf)


def _refuse_other(name: str, value: Tensor, expected: Tensor) -> None:
    """Refuse a tensor with other values than were written; one left on disk is not compared.

    Raises:
        LopeError: its values differ by more than the rounding to its dtype.
    """
    if value.is_meta:
        return
    expected = expected.to(value.device, value.dtype)
    rounding = torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
    if value.shape != expected.shape or not torch.allclose(value, expected, rtol=rounding, atol=0):
        raise LopeError(
            f"{name} has other values when it is read back from disk; the export was not kept, "
            "please report the model."
        )


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
