"""Tables of text: CSV, and the same with tabs or semicolons."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from lope_dist.core.errors import LopeError
from lope_dist.corpus.rows.readers.base import ROW_LIMIT, NumberedRows, Select
from lope_dist.corpus.rows.readers.lines import decode, read_lines
from lope_dist.corpus.rows.turns import RowError

_DELIMITERS = ",\t;"
_BY_CHANCE = 2  # (lines - 1) x (columns - 1) of a text whose lines look like rows
_QUOTED = r'(?:^|[{}\r\n])(?P<cell>"(?:[^"]|"")*+(?P<end>"|\Z))'


def read_csv(path: Path, select: Select) -> NumberedRows:
    """Yield a table's rows by the names of its first line; cells are strings.

    What parts the cells is the comma; a tab or a semicolon where the first line has no comma. A
    quoted cell may hold line breaks. The number of a row is that of its first line.

    Raises:
        LopeError: a quote that swallows rows: how many are lost is unknown; or two that do.
    """
    return _read(path, select, _DELIMITERS)


def read_tsv(path: Path, select: Select) -> NumberedRows:
    """Yield the rows of a table whose cells are parted by tabs; see `read_csv`."""
    return _read(path, select, "\t")


def _read(path: Path, select: Select, delimiters: str) -> NumberedRows:
    csv.field_size_limit(ROW_LIMIT)  # of the whole process, 128 KiB by default
    header, selected, lines = [], set(), _Lines(path)
    delimiter = _delimiter(path, delimiters)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.begin_row()
        try:
            cells = next(rows, None)
            problem = lines.problem
        except csv.Error as error:
            cells, problem = [], RowError("not valid CSV", f"not valid CSV: {error}")
            _check_quotes(lines, delimiter, str(error))
        if cells is None:
            return
        if not header:
            if problem is not None:
                raise problem
            if cells:
                header, selected = cells, _columns(cells, select)
        elif problem is not None:
            yield lines.first, problem
        elif len(cells) == len(header):
            if lines.last > lines.first:
                _check_lines(lines, delimiter, len(header))
            yield lines.first, {n: c for n, c in zip(header, cells, strict=True) if n in selected}
        elif cells:  # or the line is blank
            reason = f"{len(cells)} cells under {len(header)} columns"
            if any(_num_cells(line, delimiter) == len(header) for line in lines.taken[1:-1]):
                _check_quotes(lines, delimiter, reason)
            if lines.last > lines.first:
                reason += f" (up to line {lines.last})"
            yield lines.first, RowError("wrong number of cells", reason)


def _delimiter(path: Path, allowed: str) -> str:
    """Return the delimiter: the first of those allowed that the first line has."""
    for _, line in read_lines(path):
        if isinstance(line, RowError) or not line.strip():
            continue
        text = re.sub('"[^"]*"', "", line.decode(errors="replace"))
        return next((mark for mark in allowed if mark in text), allowed[0])
    return allowed[0]


def _columns(header: list[str], select: Select) -> set[str]:
    if len(set(header)) < len(header):
        raise RowError("not valid CSV", f"two columns have one name: {', '.join(header)}")
    return set(select(header))


def _num_cells(line: str, delimiter: str) -> int:
    return len(next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter), []))


def _check_quotes(lines: _Lines, delimiter: str, reason: str) -> None:
    """Check that the last quoted cell of a broken row begins and ends in one line.

    Raises:
        LopeError: it does not; tells the line where its quote opens.
    """
    cells = re.finditer(_QUOTED.format(re.escape(delimiter)), "".join(lines.taken))
    quoted = next(iter(deque(cells, maxlen=1)), None)
    is_closed = quoted is not None and quoted["end"]
    if quoted is None or (is_closed and len(quoted["cell"].splitlines()) == 1):
        return
    at, left = lines.first, quoted.start("cell")
    for line in lines.taken:
        if left < len(line):
            break
        at, left = at + 1, left - len(line)
    how = f"is closed only in line {lines.last}" if is_closed else "is never closed"
    raise LopeError(
        f"{lines.path}, line {at}: not valid CSV: {reason}: the quote that opens a cell here "
        f"{how}, so that rows behind it are taken for its text; close it, or write a quote that "
        'is text as "" in a quoted cell.'
    )


def _check_lines(lines: _Lines, delimiter: str, num_columns: int) -> None:
    """Check that a row of several lines is not several rows, between two stray quotes.

    It is where each of its lines is a whole row once the quotes are left out. Of a text that has
    line breaks, the first or the last line is not; of few lines and columns it could be by chance.

    Raises:
        LopeError: it is; tells its lines.
    """
    text = "".join(lines.taken)
    cells = list(re.finditer(_QUOTED.format(re.escape(delimiter)), text))
    cells = [cell for cell in cells if len(cell["cell"].splitlines()) > 1]
    if len(cells) != 1:
        return
    start, end = cells[0].span("cell")
    rows = (text[:start] + text[start + 1 : end - 1] + text[end:]).splitlines()
    if (len(rows) - 1) * (num_columns - 1) < _BY_CHANCE:
        return
    if all(_num_cells(row, delimiter) == num_columns for row in rows):
        raise LopeError(
            f"{lines.path}, lines {lines.first} to {lines.last}: a quoted cell holds lines each of "
            "which is a whole row, as between two quotes that are text; write a quote that is text "
            'as "" in a quoted cell, or, if the cell is meant so, the file as .jsonl.'
        )


class _Lines(Iterator[str]):
    """A file's lines as text, for `csv`, with those of the row that is being read.

    A generator could not go on behind an error; here the row takes note of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: Iterator[tuple[int, bytes | RowError]] = read_lines(path)
        self.first, self.last = 1, 0
        self.taken: list[str] = []
        self.problem: RowError | None = None
        """What makes the row a bad one."""

    def begin_row(self) -> None:
        """Forget the lines of the row before."""
        self.first, self.taken, self.problem = self.last + 1, [], None

    def __next__(self) -> str:
        self.last, line = next(self._lines)
        if isinstance(line, RowError):
            self.problem, text = line, ""
        else:
            try:
                text = decode(line)
            except RowError as error:
                self.problem, text = error, line.decode(errors="replace")
        self.taken.append(text)
        return text
