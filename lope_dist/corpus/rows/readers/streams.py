"""Bytes of a file as UTF-8, whatever it is packed and encoded in."""

from __future__ import annotations

import codecs
import io
import re
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Suffix behind a file's own -> how it is compressed."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
"""How a compressed file begins -> how it is compressed; no UTF-8 begins so."""
_WIDE = (
    ("utf-32", rb"\xff\xfe\0\0|\0\0\xfe\xff"),
    ("utf-16", rb"\xff\xfe|\xfe\xff"),
    ("utf-16-le", rb"[^\0]\0[^\0]\0"),
    ("utf-16-be", rb"\0[^\0]\0[^\0]"),
)
"""Encodings, and how a file in them begins: by a byte order mark, or by two Latin characters."""
_BUFFER = 1 << 20


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed as often as it was compressed, and in UTF-8.

    It must be compressed as its suffixes say; that it is where they say nothing shows in how it
    begins.
    """
    file: Any = path.open("rb", buffering=_BUFFER)
    native: Any = None
    named = [CODECS[suffix] for suffix in packed_suffixes(path)]
    while codec := named.pop() if named else _compression(_start(file)):
        native = pa.OSFile(str(path)) if native is None else pa.PythonFile(file)
        file = io.BufferedReader(cast(Any, pa.CompressedInputStream(native, codec)), _BUFFER)
    start = _start(file)
    for encoding, pattern in _WIDE:
        if re.match(pattern, start, re.DOTALL):
            return io.BufferedReader(_AsUtf8(file, encoding), _BUFFER)
    return file


def packed_suffixes(path: Path) -> list[str]:
    """Return the suffixes behind a file's own, in small letters, as `['.gz']`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return list(takewhile(CODECS.__contains__, reversed(suffixes)))[::-1]


def _compression(start: bytes) -> str | None:
    return next((name for mark, name in _COMPRESSED.items() if start.startswith(mark)), None)


def _start(file: io.BufferedReader) -> bytes:
    return file.peek(4)[:4]


class _AsUtf8(io.RawIOBase):
    """A file in UTF-16 or UTF-32, read as UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file, self._encoding = file, encoding
        # Half surrogates become bytes that are no UTF-8, so that only their row is bad.
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")

    def readable(self) -> bool:
        """Return true."""
        return True

    def close(self) -> None:
        """Close the file below too."""
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, at least in part; 0 at the end."""
        while True:
            data = self._file.read(len(buffer) // 2)  # at most 3 bytes for 2
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise OSError(f"not valid {self._encoding.upper()}: {error.reason}") from None
            if text or not data:
                new = text.encode("utf-8", "surrogatepass")
                buffer[: len(new)] = new
                return len(new)
