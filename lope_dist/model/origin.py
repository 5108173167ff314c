"""Where a parameter's values come from, and reading any part of it."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.model.finite import read_finite
from lope_dist.model.name_mapping import Recipe
from lope_dist.model.segments import CopyRecorder, Rearranged, Segment


@dataclass(frozen=True)
class Origin:
    """How one parameter is made of file tensors.

    Attributes:
        target: The parameter's name in the model.
        recipe: The file tensors and what transformers does with them.
        shape: What comes out.
        layout: The runs of file tensors that it consists of; None where it has to be computed
            whole.
    """

    target: str
    recipe: Recipe
    shape: tuple[int, ...]
    layout: list[Segment] | Rearranged | None

    @property
    def names(self) -> list[str]:
        """The file tensors."""
        return self.recipe.names

    @property
    def numel(self) -> int:
        """Elements of the parameter."""
        return math.prod(self.shape)

    def whole_bytes(self, files: TensorFiles) -> int:
        """Return what computing the parameter whole takes: what is read, and as much again."""
        if self.layout is not None:
            return 0
        return 2 * self.recipe.dtype.itemsize * sum(math.prod(files.shape(n)) for n in self.names)

    def __str__(self) -> str:
        """Name it as a message should: the tensor's name, or the parameter's and its tensors'."""
        if self.recipe.converter is None:
            return self.names[0]
        return f"{self.target} (from {_listed(self.names)})"


def origins(recipe: Recipe, model: PreTrainedModel, files: TensorFiles) -> list[Origin]:
    """Return where each parameter of a recipe comes from.

    Raises:
        Exception: whatever transformers' operations raise for tensors that do not fit.
    """
    if recipe.converter is None:
        name = recipe.names[0]
        shape = files.shape(name)
        segments = [Segment(name, 0, 0, math.prod(shape))]
        return [Origin(recipe.target, recipe, shape, segments)]
    recorder = CopyRecorder()
    with recorder:
        made = recipe.apply(
            model, lambda name: recorder.stand_in(name, files.shape(name), recipe.dtype)
        )
    return [
        Origin(
            target,
            recipe,
            tuple(result.shape),
            recorder.segments(result) or recorder.rearranged(result),
        )
        for target, result in made.items()
    ]


class OriginReader:
    """Reads parts of one parameter.

    While it lives it keeps what it had to compute: the whole parameter, or the last slice of a
    rearranged one.

    Args:
        origin: The parameter.
        files: Where its values are.
        model: Whose it is.
        may_be_infinite: For buffers, some of which hold infinity as a bound that binds nothing.

    Raises:
        LopeError: while reading: NaN, infinity, or more than the parameter's dtype holds.
    """

    def __init__(
        self,
        origin: Origin,
        files: TensorFiles,
        model: PreTrainedModel,
        *,
        may_be_infinite: bool = False,
    ) -> None:
        self._files, self._origin, self._dtype = files, origin, origin.recipe.dtype
        self._may_be_infinite = may_be_infinite
        self._kept: tuple[int, Tensor] | None = None
        self._starts: list[int] = []
        if isinstance(origin.layout, list):
            self._starts = [segment.at for segment in origin.layout]
        elif origin.layout is None:
            made = origin.recipe.apply(model, self._read_whole)
            self._kept = (0, made[origin.target].reshape(-1))

    def read(self, start: int, stop: int) -> Tensor:
        """Return elements ``start`` to ``stop`` of the flattened parameter.

        In the file's dtype if they lie in one run, else in that of the parameter.
        """
        parts, done = [], start
        while done < stop:
            parts.append(self._run(done, stop))
            done += parts[-1].numel()
        if len(parts) == 1:
            return parts[0]
        empty = torch.empty(0, dtype=self._dtype)
        return torch.cat([empty, *(part.to(self._dtype) for part in parts)])

    def _run(self, start: int, stop: int) -> Tensor:
        """Return elements from ``start`` to ``stop`` or to the end of their run."""
        layout = self._origin.layout
        if isinstance(layout, list):
            segment = layout[bisect_right(self._starts, start) - 1]
            first = segment.first + start - segment.at
            count = min(segment.at + segment.numel, stop) - start
            return self._read(segment.name, first, first + count)
        size = self._origin.numel if layout is None else math.prod(layout.shape[1:])
        index = start // size
        if layout is not None and (self._kept is None or self._kept[0] != index):
            first = layout.first + index * layout.strides[0]
            run = self._read(layout.name, first, first + size)
            ordered = run.as_strided(layout.shape[1:], layout.strides[1:])
            self._kept = (index, ordered.reshape(-1))
        assert self._kept is not None
        return self._kept[1][start - index * size : stop - index * size]

    def _read_whole(self, name: str) -> Tensor:
        shape = self._files.shape(name)
        return self._read(name, 0, math.prod(shape)).to(self._dtype).view(shape)

    def _read(self, name: str, start: int, stop: int) -> Tensor:
        if self._may_be_infinite:
            return self._files.read(name, start, stop)
        return read_finite(self._files, name, start, stop, self._dtype)


def _listed(names: list[str]) -> str:
    rest = len(names) - 1
    return names[0] + (f" and {rest} more" if rest else "")
