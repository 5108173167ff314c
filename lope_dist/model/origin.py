"""Where a parameter's values come from, and reading any part of it."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.model.name_mapping import Recipe
from lope_dist.model.segments import CopyRecorder, Segment


@dataclass(frozen=True)
class Origin:
    """How one parameter is made of file tensors.

    Attributes:
        target: The parameter's name in the model.
        recipe: The file tensors and what transformers does with them.
        shape: What comes out.
        segments: The runs of file tensors that it consists of; None where it has to be computed
            whole.
    """

    target: str
    recipe: Recipe
    shape: tuple[int, ...]
    segments: list[Segment] | None

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
        if self.segments is not None:
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
        Origin(target, recipe, tuple(result.shape), recorder.segments(result))
        for target, result in made.items()
    ]


class OriginReader:
    """Reads parts of one parameter; keeps it while it lives if it had to be computed whole."""

    def __init__(self, origin: Origin, files: TensorFiles, model: PreTrainedModel) -> None:
        self._files, self._dtype = files, origin.recipe.dtype
        self._whole: Tensor | None = None
        self._segments = origin.segments or []
        self._starts = [segment.at for segment in self._segments]
        if origin.segments is None:
            made = origin.recipe.apply(model, self._read_whole)
            self._whole = made[origin.target].reshape(-1)

    def read(self, start: int, stop: int) -> Tensor:
        """Return elements ``start`` to ``stop`` of the flattened parameter.

        In the file's dtype if they lie in one tensor, else in that of the parameter.
        """
        if self._whole is not None:
            return self._whole[start:stop]
        parts, index, done = [], bisect_right(self._starts, start) - 1, start
        while done < stop:
            segment = self._segments[index]
            first = segment.first + done - segment.at
            taken = min(segment.at + segment.numel, stop) - done
            parts.append(self._files.read(segment.name, first, first + taken))
            done, index = done + taken, index + 1
        if len(parts) == 1:
            return parts[0]
        return torch.cat([part.to(self._dtype) for part in parts])

    def _read_whole(self, name: str) -> Tensor:
        shape = self._files.shape(name)
        return self._files.read(name, 0, math.prod(shape)).to(self._dtype).view(shape)


def _listed(names: list[str]) -> str:
    rest = len(names) - 1
    return names[0] + (f" and {rest} more" if rest else "")
