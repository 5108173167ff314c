"""Files read by lines: JSON Lines and plain text, compressed or not.

U+2028 and its like end no line: they are part of the text.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lope_dist.corpus.rows.readers.base import ROW_LIMIT, NumberedRows, Select
from lope_dist.corpus.rows.readers.json_values import parse_line
from lope_dist.corpus.rows.readers.streams import open_bytes
from lope_dist.corpus.rows.turns import RowError

_BUFFER = 1 << 20
_START = 4096
_MARK = codecs.BOM_UTF8


def read_jsonl(path: Path, select: Select) -> NumberedRows:
    """Yield the object of each line that is not blank."""
    return _rows(path, b"\r\n", lambda line: parse_line(line.rstrip("\r\n")))


def read_text(path: Path, select: Select) -> NumberedRows:
    """Yield ``{"text": line}`` for each line that is not blank: a document a line.

    A carriage return inside a line is part of the text.
    """
    return _rows(path, b"\n", lambda line: {"text": line.removesuffix("\n").removesuffix("\r")})


def _rows(path: Path, ends: bytes, parse: Callable[[str], Any]) -> NumberedRows:
    for number, line in read_lines(path, ends):
        try:
            if isinstance(line, RowError):
                raise line
            if line.strip():
                yield number, parse(_decode_whole(line))
        except RowError as error:
            yield number, error


def holds_lines(path: Path) -> bool:
    """Tell whether a file has an object of JSON in its first line and another behind it."""
    with open_bytes(path) as file:
        if not file.read(_START).removeprefix(_MARK).lstrip().startswith(b"{"):
            return False
    lines = (line for _, line in read_lines(path) if isinstance(line, RowError) or line.strip())
    first, second = next(lines, b""), next(lines, b"")
    if isinstance(first, RowError) or isinstance(second, RowError):
        return False
    try:
        return isinstance(parse_line(decode(first)), dict) and second.lstrip().startswith(b"{")
    except RowError:
        return False


def read_lines(path: Path, ends: bytes = b"\r\n") -> Iterator[tuple[int, bytes | RowError]]:
    """Yield each line with its end and without a byte order mark.

    ``ends``: with a carriage return in it, one that no line feed follows ends a line too.
    """
    with open_bytes(path) as file:
        number = 0
        while line := file.readline(ROW_LIMIT + 1):
            if len(line) > ROW_LIMIT:
                while not line.endswith(b"\n") and (line := file.readline(_BUFFER)):
                    pass
                number += 1
                yield number, too_long()
                continue
            if number == 0:
                line = line.removeprefix(_MARK)
            has_more_ends = b"\r" in ends and line.find(b"\r", 0, -2) >= 0
            for part in line.splitlines(keepends=True) if has_more_ends else (line,):
                number += 1
                yield number, part


def decode(line: bytes) -> str:
    """Return a line as text.

    Raises:
        RowError: it is no UTF-8.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise RowError(
            "not valid UTF-8", f"not valid UTF-8 (byte {error.start + 1} of the line)"
        ) from None


def _decode_whole(line: bytes) -> str:
    """Return a line of a file that was not damaged as text: no NUL byte is in it."""
    if (at := line.find(b"\0")) >= 0:
        raise RowError("NUL bytes", f"a NUL byte (byte {at + 1} of the line): the file is damaged")
    return decode(line)


def too_long() -> RowError:
    """Return the error of a row that is longer than the limit."""
    return RowError("too long", f"longer than {ROW_LIMIT >> 20} MiB; cut or remove it")
