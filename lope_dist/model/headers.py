"""The header of a safetensors file, with nothing in it taken on trust."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

from lope_dist.core.errors import LopeError

_MOST_BYTES = 100_000_000
"""Of a header, as the format has it."""


class HeaderEntry(NamedTuple):
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """First byte, from the file's start."""
    end: int


def read_header(descriptor: int, path: Path) -> dict[str, HeaderEntry]:
    """Return the tensors that a file's header names.

    Raises:
        LopeError: no header, one that is not of the format, or tensors that lie outside the file
            or over one another.
    """
    file_size = os.fstat(descriptor).st_size
    try:
        (length,) = struct.unpack("<Q", os.pread(descriptor, 8, 0))
        fits = length <= min(file_size - 8, _MOST_BYTES)
        header = json.loads(os.pread(descriptor, length, 8)) if fits else None
    except (struct.error, ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise LopeError(f"{path} is not a whole safetensors file: copy it again.")
    header.pop("__metadata__", None)
    entries = {
        name: _entry(entry, 8 + length, f"{path}: tensor '{name}'")
        for name, entry in header.items()
    }
    before, last = "", 8 + length
    for name, tensor in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.end > file_size:
            raise LopeError(f"{path} is cut off inside tensor '{name}': copy it again.")
        if tensor.begin < last and tensor.end > tensor.begin:
            raise LopeError(
                f"{path}: tensors '{before}' and '{name}' stand in the same bytes: copy it again."
            )
        before, last = name, max(last, tensor.end)
    return entries


def _entry(entry: Any, start: int, what: str) -> HeaderEntry:
    if not isinstance(entry, dict):
        raise LopeError(f"{what} is not described by names and values: copy the file again.")
    fields: list[Any] = [entry.get(key) for key in ("dtype", "shape", "data_offsets")]
    dtype, shape, offsets = fields
    if not isinstance(dtype, str):
        raise LopeError(f"{what} has no dtype: copy the file again.")
    if not _are_counts(shape):
        raise LopeError(f"{what} has no shape of whole numbers: copy the file again.")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise LopeError(f"{what} has no place of two ascending offsets: copy the file again.")
    return HeaderEntry(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in values)
