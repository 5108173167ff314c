"""Read any part of any tensor of a safetensors folder, without mapping files into memory.

A memory map would count against the process as soon as its pages are touched; positioned
reads bring in just the bytes asked for.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lope_dist.core.errors import LopeError
from lope_dist.model.headers import read_header
from lope_dist.model.hub import INDEX, SINGLE, indexed_files, weights_file

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,  # packed weights and their scales
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class _Entry:
    path: Path
    descriptor: int
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]


class TensorFiles:
    """The tensors of a model folder by name, from the files that `from_pretrained` would read.

    Of a tensor that several files hold, the last file's counts, in the order of their names.

    Raises:
        LopeError: no safetensors there, or a file that is torn or of a foreign dtype.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repeated: list[str] = []
        """Tensors that more than one of the files holds."""
        self._entries: dict[str, _Entry] = {}
        self._descriptors: list[int] = []
        for name in _file_names(folder):
            self._read_header(folder / name)

    def names(self) -> set[str]:
        """Return the names of all tensors."""
        return set(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        return self._entries[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of one tensor."""
        return self._entries[name].dtype

    def path(self, name: str) -> Path:
        """Return the file that one tensor is read from."""
        return self._entries[name].path

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Return elements ``start`` to ``stop`` of the flattened tensor, in its own dtype."""
        dtype = self.dtype(name)
        raw = self.read_bytes(name, start * dtype.itemsize, stop * dtype.itemsize)
        return raw.view(dtype)

    def read_bytes(self, name: str, start: int, stop: int) -> Tensor:
        """Return bytes ``start`` to ``stop`` of a tensor as uint8."""
        entry = self._entries[name]
        result = torch.empty(stop - start, dtype=torch.uint8)
        buffer = memoryview(result.numpy())  # pyright: ignore[reportArgumentType]
        done = 0
        while done < len(buffer):
            count = os.preadv(entry.descriptor, [buffer[done:]], entry.offset + start + done)
            if count == 0:
                raise LopeError(f"The file of tensor '{name}' ends early: copy it again.")
            done += count
        return result

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _read_header(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise LopeError(f"{path} cannot be read: {error.strerror}.") from None
        self._descriptors.append(descriptor)
        for name, entry in read_header(descriptor, path).items():
            if name in self._entries:
                self.repeated.append(name)
            if entry.dtype not in _DTYPES:
                what = "8-bit float" if entry.dtype.startswith("F8") else "not supported"
                raise LopeError(
                    f"{path}: tensor '{name}' has dtype {entry.dtype} ({what}); use a version "
                    f"of the model in 16 bits. Allowed: {', '.join(_DTYPES)}."
                )
            dtype, shape = _DTYPES[entry.dtype], entry.shape
            if entry.end - entry.begin != math.prod(shape) * dtype.itemsize:
                raise LopeError(
                    f"{path}: tensor '{name}' has {entry.end - entry.begin} bytes, and its shape "
                    f"{list(shape)} takes {math.prod(shape) * dtype.itemsize}: copy the file again."
                )
            self._entries[name] = _Entry(path, descriptor, entry.begin, dtype, shape)


def _file_names(folder: Path) -> list[str]:
    """Return the files' names, each once, in order."""
    _refuse_another_file(folder / "config.json")
    names = {path.name for path in folder.iterdir()}
    source = weights_file(names, str(folder))
    indexed = indexed_files(folder / INDEX) if INDEX in names else set()  # one that lies is told
    return [SINGLE] if source == SINGLE else sorted(indexed)


def _refuse_another_file(config: Path) -> None:
    """Refuse a `config.json` that makes `from_pretrained` read a file of another name."""
    try:
        stated = json.loads(config.read_text()).get("transformers_weights")
    except (OSError, ValueError, AttributeError):
        return
    if stated not in (None, SINGLE, INDEX):
        raise LopeError(
            f"{config} names its weights' file, '{stated}' (transformers_weights); rename that "
            f"file to {SINGLE} or {INDEX} and remove the key."
        )
