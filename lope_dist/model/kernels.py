"""`model.kernels`: Liger's fused kernels on GPUs, where they are installed and wanted.

Liger knows which of a family's modules its kernels can stand for, and puts them there: RMSNorm,
SwiGLU or GeGLU, and rotary positions. It does so for good, and partly for the whole process, with
Triton kernels that no CPU runs. So what it changed is looked up afterwards, and each change goes
to the model's own form again wherever a tensor is not on a GPU.

The head's loss has a kernel of Liger too; `LossHead` calls it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import is_liger_kernel_available

from lope_dist.core.errors import LopeError
from lope_dist.model.loss_head import loss_head


class OnGpus:
    """A fused form of a function for tensors of a GPU, the model's own for all others."""

    def __init__(self, fused: Callable[..., Any], plain: Callable[..., Any]) -> None:
        self.fused = fused
        self.plain = plain

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the form that the first tensor's device has."""
        tensors = (a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor))
        first = next(tensors, None)
        is_on_gpu = first is not None and first.is_cuda
        return (self.fused if is_on_gpu else self.plain)(*args, **kwargs)


def choose_kernels(model: PreTrainedModel, requested: Literal["auto", "liger", "none"]) -> None:
    """Give a model without adapters the kernels that `model.kernels` asks for.

    Raises:
        LopeError: `liger` where it cannot run, or does not know the model.
    """
    _take_back(model)
    head = loss_head(model)
    uses = requested != "none" and _liger_runs_here()
    if requested == "liger" and not uses:
        raise LopeError(
            "model.kernels = 'liger' needs a CUDA device and the package liger-kernel; use 'auto' "
            "or 'none', or install it with pip install 'lope-dist[cuda]'."
        )
    if head is not None:
        head.kernels = requested if uses else "none"
    reason = _fuse(model) if uses else None
    if head is None and not fused_parts(model):
        reason = reason or "Liger has no kernel for anything that this model computes"
    if requested == "liger" and reason is not None:
        raise LopeError(
            f"model.kernels = 'liger': {reason}; use 'auto', which takes what there is, or 'none'."
        )


def kernels_sentence(model: PreTrainedModel) -> str:
    """Return which fused kernels a model runs with on a GPU, in words."""
    head, fused = loss_head(model), fused_parts(model)
    if head is not None and head.uses_liger:
        fused["the head's loss"] = 1
    if not fused:
        return "PyTorch's"
    return "Liger's on a GPU: " + ", ".join(
        name if count == 1 else f"{name} x {count}" for name, count in fused.items()
    )


def fused_parts(model: PreTrainedModel) -> Counter[str]:
    """Return what has a fused form on a GPU: classes of modules and functions, and how many."""
    modules = Counter(
        type(m).__name__ for m in model.modules() if isinstance(vars(m).get("forward"), OnGpus)
    )
    return modules + Counter(n for n, f in _functions(model).items() if isinstance(f, OnGpus))


def _liger_runs_here() -> bool:
    return torch.cuda.is_available() and is_liger_kernel_available()


def _fuse(model: PreTrainedModel) -> str | None:
    """Let Liger put its kernels into a model; return why it could not, if so."""
    from liger_kernel.transformers import monkey_patch  # pyright: ignore[reportMissingImports]

    model_type = model.config.model_type
    if model_type not in monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN:
        return f"Liger has no kernels for {model_type} models"
    if model.config.get_text_config() is not model.config:
        return "Liger's kernels for models of several parts change more than this model"
    functions = _functions(model)
    forwards = {module: vars(module).get("forward") for module in model.modules()}
    failed = None
    try:
        monkey_patch._apply_liger_kernel_to_instance(
            model=model, cross_entropy=False, fused_linear_cross_entropy=False
        )
    except Exception as error:  # of any kind: it takes the model's parts for those it knows
        failed = f"Liger cannot change this {model_type} model ({type(error).__name__}: {error})"
    for name, plain in functions.items():
        fused = _functions(model)[name]
        if fused is not plain:
            is_kept = failed is None and not isinstance(plain, type)
            setattr(_modeling(model), name, OnGpus(fused, plain) if is_kept else plain)
    for module, before in forwards.items():
        fused = vars(module).get("forward")
        if fused is None or fused is before:
            continue
        del module.forward
        if before is not None:
            module.forward = before
        if failed is None and _computes_alone(module):
            module.forward = OnGpus(fused, module.forward)
    return failed


def _take_back(model: PreTrainedModel) -> None:
    """Give the family's code its own functions again: an earlier model may have had others."""
    for name, function in _functions(model).items():
        if isinstance(function, OnGpus):
            setattr(_modeling(model), name, function.plain)


def _modeling(model: PreTrainedModel) -> Any:
    """Return the Python module that a model's class is written in."""
    return sys.modules[type(model).__module__]


def _functions(model: PreTrainedModel) -> dict[str, Any]:
    """Return the functions and classes of a model's Python module."""
    return {name: value for name, value in vars(_modeling(model)).items() if callable(value)}


def _computes_alone(module: nn.Module) -> bool:
    """Whether a module multiplies with no matrix of its own, which may be packed."""
    return all(p.dim() <= 1 for p in module.parameters(recurse=False))
