"""Weights that are numbers: NaN, infinity and what a dtype cannot hold, named where they stand.

A model with one NaN in its weights has NaN as its loss, and what is blamed then is the learning
rate or the examples of the step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lope_dist.core.errors import LopeError
from lope_dist.model.checkpoint_files import TensorFiles


def read_finite(files: TensorFiles, name: str, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Return elements ``start`` to ``stop`` of a flattened tensor, in its own dtype.

    Args:
        files: Where the tensor is.
        name: Of the tensor.
        start: First element.
        stop: The element after the last one.
        dtype: What the elements will be cast to.

    Raises:
        LopeError: one of them is not finite, or would not be after the cast.
    """
    values = files.read(name, start, stop)
    refuse_infinite(values, files, name, start, dtype)
    return values


def refuse_infinite(
    values: Tensor, files: TensorFiles, name: str, start: int, dtype: torch.dtype
) -> None:
    """Refuse values that are not finite, or would not be in another dtype.

    Args:
        values: Of a tensor of the files; integers pass.
        files: Where the tensor is.
        name: Of the tensor.
        start: Where in the flattened tensor the values begin.
        dtype: What they will be cast to.

    Raises:
        LopeError: names tensor, file, element and value.
    """
    if not (values.is_floating_point() and dtype.is_floating_point and values.numel()):
        return
    most = min(torch.finfo(values.dtype).max, torch.finfo(dtype).max)
    low, high = torch.aminmax(values)  # NaN if there is one, and no comparison holds for it
    if -most <= low.item() and high.item() <= most:
        return
    index = int((~(values.double().abs() <= most)).nonzero()[0])
    value = values[index].item()
    where = f"{files.path(name)}: element {start + index} of tensor '{name}' is {value:g}"
    if abs(value) < float("inf"):
        raise LopeError(f"{where}, beyond what {dtype} holds; set model.dtype=float32.")
    raise LopeError(
        f"{where}, and no loss of such a model is a number: the file is damaged, or the training "
        "that made it went wrong; copy it again, or take another model."
    )
