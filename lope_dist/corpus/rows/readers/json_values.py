"""JSON values: one from a line, or the items of a `.json` list one by one.

The file of a list is never in memory whole.
"""

from __future__ import annotations

import codecs
import json
import math
from pathlib import Path
from typing import Any, BinaryIO

from lope_dist.core.errors import LopeError
from lope_dist.corpus.rows.readers.base import ROW_LIMIT, NumberedRows, Select
from lope_dist.corpus.rows.readers.streams import open_bytes
from lope_dist.corpus.rows.turns import RowError

_CHUNK = 1 << 20


def read_json_list(path: Path, select: Select) -> NumberedRows:
    """Yield the items of the list.

    Raises:
        LopeError: no list, or broken JSON: where the next item begins is then unknown, so
            that none can be left out.
    """
    with open_bytes(path) as file:
        text = _Window(path, file)
        first = text.peek()
        if first not in ("[", ""):
            raise LopeError(
                f"{path} begins with {first!r}; a .json file holds one list of objects, or an "
                f"object in each of its lines{text.keys()}."
            )
        if first == "":
            return
        text.take()
        number = 0
        while text.peek() != "]":
            if number and text.take() != ",":
                raise text.broken("',' or ']' is missing behind an item")
            number += 1
            text.peek()
            yield number, text.take_item()
        text.take()
        if text.peek():
            raise text.broken("something follows the list")


class _Window:
    """The part of a file's text that is being looked at."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        # Bytes that are no UTF-8 become half surrogates, so that only their item is bad.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._text, self._at, self._line, self._is_whole = "", 0, 1, False

    def peek(self) -> str:
        """Return the next character that is no white space, or ``""`` at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if self._is_whole:
                return ""
            self._fill(_CHUNK)

    def take(self) -> str:
        """Return one character and step over it."""
        self._at += 1
        return self._text[self._at - 1 : self._at]

    def take_item(self) -> Any:
        """Return the value that begins here, or the `RowError` that makes it a bad one."""
        while True:
            reason, end = "it is cut off", 0
            try:
                value, end = _parse_value(self._text, self._at)
            except json.JSONDecodeError as error:
                reason = error.msg
            except RecursionError:
                raise self.broken("nested too deeply") from None
            if end and (end < len(self._text) or self._is_whole):
                break
            length = len(self._text) - self._at
            if self._is_whole:
                raise self.broken(reason)
            if length > ROW_LIMIT:
                raise self.broken(f"{reason}, or an item longer than {ROW_LIMIT >> 20} MiB")
            self._fill(max(_CHUNK, length))  # doubled, so that a long item costs no more
        source, self._at = self._text[self._at : end], end
        try:
            source.encode()
        except UnicodeEncodeError as error:
            return RowError(
                "not valid UTF-8", f"not valid UTF-8 (character {error.start + 1} of the item)"
            )
        return value

    def keys(self) -> str:
        """Return what to add to an error about the object that begins here, if one does."""
        try:
            value = self.take_item()
        except LopeError:
            return ""
        if not isinstance(value, dict) or not value:
            return ""
        return f"; this one holds an object with the keys {', '.join(list(value)[:8])}"

    def broken(self, reason: str) -> LopeError:
        """Return the error that ends the file here."""
        line = self._line + self._text.count("\n", 0, self._at)
        return LopeError(
            f"{self._path}, line {line}: not valid JSON: {reason}; a .json file holds one list of "
            "objects, and where the next one begins is unknown behind such an error (in .jsonl, "
            "with an object in each line, it would be one bad row)."
        )

    def _fill(self, size: int) -> None:
        self._line += self._text.count("\n", 0, self._at)
        data = self._file.read(size)
        self._is_whole = not data
        self._text = self._text[self._at :] + self._decoder.decode(data, final=not data)
        self._at = 0


def _not_a_number(name: str) -> Any:
    raise RowError(
        "not valid JSON", f"not valid JSON: {name} is no JSON number; write null or a number"
    )


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise RowError(
            "number out of range", f"the number {digits[:20]} is too large; write it as a string"
        )
    return number


_DECODER = json.JSONDecoder(parse_constant=_not_a_number, parse_float=_finite)
_ENDS = json.JSONDecoder(parse_int=str, parse_float=str)
"""Takes every number, to find where a value ends."""


def _parse_value(text: str, start: int = 0) -> tuple[Any, int]:
    """Return the value that begins at ``start`` of a text, and where it ends.

    The value is a `RowError` if it holds a number that JSON or Python cannot hold.

    Raises:
        JSONDecodeError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError:
        raise
    except RowError as error:
        return error, _ENDS.raw_decode(text, start)[1]
    except ValueError:  # Python's limit of digits
        problem = RowError(
            "number out of range", "a whole number of thousands of digits; write it as a string"
        )
        return problem, _ENDS.raw_decode(text, start)[1]


def parse_line(text: str) -> Any:
    """Return the one value of a line.

    Raises:
        RowError: it is no JSON, or holds a number that cannot be held.
    """
    start = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, end = _parse_value(text, start)
        if rest := text[end:].lstrip(" \t\r\n"):
            raise json.JSONDecodeError("Extra data", text, len(text) - len(rest))
    except json.JSONDecodeError as error:
        reason = f"not valid JSON: {error.msg} (column {error.colno})"
    except RecursionError:
        reason = "not valid JSON: nested too deeply"
    else:
        if isinstance(value, RowError):
            raise value
        return value
    raise RowError("not valid JSON", reason)
