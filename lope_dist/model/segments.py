"""Which runs of file tensors a parameter is made of, learnt from transformers' own operations.

The operations that fuse and split tensors while loading (`Chunk`, `Concatenate`,
`MergeModulelist`, ...) run on meta tensors in the files' place. Views need no bookkeeping: a
tensor knows its place in its storage. What copies (`cat`, `stack`, `clone`, a cast) is recorded,
and a parameter's elements are followed back through the copies to the files:

    files       [ expert 0 gate ] [ expert 0 up ] [ expert 1 gate ] ...
                        |               |                 |
    parameter   |---------------|---------------|-----------------|---   segments

Whatever else an operation does (arithmetic, an index, a write in place) makes the result
unknown: it is no list of segments, and has to be computed whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_MAX_SEGMENTS, _MAX_SHORT = 1 << 18, 1 << 10
"""Runs of one parameter, and runs shorter than 64 elements; more are slower than the whole."""
_COPIES = (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default)


@dataclass(frozen=True)
class Segment:
    """A run of a parameter's flattened elements and where in the files it lies.

    Attributes:
        name: The file's tensor.
        first: Where the run begins in that tensor, flattened.
        at: Where it begins in the parameter, flattened.
        numel: Its elements.
    """

    name: str
    first: int
    at: int
    numel: int


@dataclass(frozen=True)
class Rearranged:
    """A parameter each of whose slices along the first dimension is a run of one file tensor.

    Within a run the elements lie in another order, as after a transpose of every expert.

    Attributes:
        name: The file's tensor.
        first: Where the first run begins in that tensor, flattened.
        shape: The parameter's.
        strides: What a step along each dimension is in the file tensor.
    """

    name: str
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class CopyRecorder(TorchDispatchMode):
    """While active, remembers what the copies of meta tensors are made of."""

    def __init__(self) -> None:
        super().__init__()
        # By storage. What is recorded keeps its tensors alive, so that no address comes twice.
        self._files: dict[int, tuple[str, Tensor]] = {}
        self._copies: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._resolved: dict[int, list[Segment] | None] = {}
        self._unknown: set[int] = set()

    def stand_in(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a meta tensor for one of the files."""
        tensor = torch.empty(tuple(shape), dtype=dtype, device="meta")
        self._files[_storage(tensor)] = (name, tensor)
        return tensor

    def segments(self, tensor: Tensor) -> list[Segment] | None:
        """Return what a result is made of, in order; None if that is no list of segments."""
        flat = torch.empty(tensor.shape, device="meta")
        result = self._follow([(flat, tensor)])
        return result if _covers(result, tensor.numel()) else None

    def rearranged(self, tensor: Tensor) -> Rearranged | None:
        """Return how a result that is one copy of a file tensor lies there, if in runs."""
        copies = self._copies.get(_storage(tensor), [])
        if len(copies) != 1 or _storage(tensor) in self._unknown:
            return None
        [(target, source)] = copies
        is_whole = tensor.shape == target.shape and tensor.stride() == target.stride()
        if not (is_whole and tensor.is_contiguous() and tensor.dim() > 1):
            return None
        storage = _storage(source)
        inner = list(zip(source.shape[1:], source.stride()[1:], strict=True))
        extent = 1 + sum((size - 1) * stride for size, stride in inner)
        is_run = extent == source[0].numel() and source.stride()[0] >= extent
        if storage not in self._files or storage in self._unknown or not is_run:
            return None
        name, _ = self._files[storage]
        first = int(source.storage_offset())
        return Rearranged(name, first, tuple(source.shape), source.stride())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and note what its result is made of."""
        result = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if func._schema.is_mutable:
            self._unknown.update(map(_storage, given))
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        sources = {_storage(x): x for x in given}
        for tensor in made:
            source = sources.get(_storage(tensor))
            if source is not None and source.dtype != tensor.dtype:
                self._unknown.add(_storage(tensor))  # offsets would count in another unit
        if func in _COPIES:
            self._copies[_storage(result)] = [(result, args[0])]
        elif func is torch.ops.aten.stack.default:
            dim = _dim(args, kwargs)
            pairs = [(result.select(dim, i), part) for i, part in enumerate(args[0])]
            self._copies[_storage(result)] = pairs
        elif func is torch.ops.aten.cat.default:
            dim = _dim(args, kwargs)
            sizes = [part.shape[dim] for part in args[0]]
            pairs = list(zip(result.split_with_sizes(sizes, dim), args[0], strict=True))
            self._copies[_storage(result)] = pairs
        return result

    def _of_storage(self, tensor: Tensor) -> list[Segment] | None:
        """Return the segments of the whole storage that a tensor is a view of."""
        storage = _storage(tensor)
        if storage in self._unknown:
            return None
        if storage in self._files:
            name, whole = self._files[storage]
            return [Segment(name, 0, 0, whole.numel())]
        if storage not in self._resolved:
            segments = self._follow(self._copies.get(storage, []))
            numel = tensor.untyped_storage().nbytes() // tensor.element_size()
            self._resolved[storage] = segments if _covers(segments, numel) else None
        return self._resolved[storage]

    def _follow(self, copies: list[tuple[Tensor, Tensor]]) -> list[Segment] | None:
        """Return segments, in order and merged, of a storage filled by ``copies``."""
        segments: list[Segment] = []
        for target, source in copies:
            inside = self._of_storage(source)
            run, dims = _common_run(target, source)
            limit = _MAX_SEGMENTS if run >= 64 else _MAX_SHORT
            if inside is None or len(segments) + source.numel() // run > limit:
                return None
            starts = [segment.at for segment in inside]
            for index in product(*(range(size) for size, _, _ in dims)):
                at = sum(i * a for i, (_, a, _) in zip(index, dims, strict=True))
                first = sum(i * b for i, (_, _, b) in zip(index, dims, strict=True))
                segments += _cut(
                    inside,
                    starts,
                    at + int(target.storage_offset()),
                    first + int(source.storage_offset()),
                    run,
                )
        return _merged(segments)


def _dim(args: Any, kwargs: dict[str, Any] | None) -> int:
    return args[1] if len(args) > 1 else (kwargs or {}).get("dim", 0)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _common_run(target: Tensor, source: Tensor) -> tuple[int, list[tuple[int, int, int]]]:
    """Return the elements that a copy moves in one run, and the dimensions around them.

    A dimension is (size, stride in the target, stride in the source).
    """
    dims = [
        each
        for each in zip(target.shape, target.stride(), source.stride(), strict=True)
        if each[0] != 1
    ]
    run = 1
    while dims and dims[-1][1:] == (run, run):
        run *= dims.pop()[0]
    return run, dims


def _cut(
    inside: list[Segment], starts: list[int], at: int, first: int, numel: int
) -> Iterator[Segment]:
    """Yield the parts of segments that lie in [first, first + numel), moved to ``at``."""
    index = bisect_right(starts, first) - 1
    done = 0
    while done < numel:
        segment = inside[index]
        skipped = first + done - segment.at
        taken = min(segment.numel - skipped, numel - done)
        yield Segment(segment.name, segment.first + skipped, at + done, taken)
        done, index = done + taken, index + 1


def _merged(segments: list[Segment]) -> list[Segment]:
    """Return the segments in order, neighbours joined."""
    result: list[Segment] = []
    for segment in sorted(segments, key=lambda each: each.at):
        last = result[-1] if result else None
        if (
            last is not None
            and last.name == segment.name
            and last.at + last.numel == segment.at
            and last.first + last.numel == segment.first
        ):
            result[-1] = Segment(last.name, last.first, last.at, last.numel + segment.numel)
        else:
            result.append(segment)
    return result


def _covers(segments: list[Segment] | None, numel: int) -> bool:
    """Return whether segments fill [0, numel) without a gap or an overlap."""
    if segments is None:
        return False
    ends = [0] + [segment.at + segment.numel for segment in segments]
    begins = [segment.at for segment in segments] + [numel]
    return ends == begins
