"""The examples of `data`, whatever it names, checked row by row when they are opened.

All rows go through one pass that checks, hashes and writes them into a `store`; from then on
only the store is read. Rows that were checked once are not read again until they change.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from lope_dist.config.data import DataConfig, SourceConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.bad_rows import BadRows, RowError
from lope_dist.corpus.layouts import Layout
from lope_dist.corpus.readers import Rows, find_rows
from lope_dist.corpus.readers.base import ROW_LIMIT
from lope_dist.corpus.readers.lines import too_long
from lope_dist.corpus.store import Store, StoreWriter, open_store
from lope_dist.corpus.turns import Example, Turn

__all__ = ["Example", "ExampleSource", "Turn", "open_source"]

_ENCODE = json.JSONEncoder(ensure_ascii=False).encode
_FORM = 1
"""Of what is written; raise it when the same rows come to other examples."""


class ExampleSource:
    """Random and sequential access to the examples of one or several sources, in order.

    It holds none of them in memory and can be sent to another process.
    """

    def __init__(
        self, store: Store, name: str, weights: tuple[float, ...], notes: tuple[str, ...] = ()
    ) -> None:
        self._store = store
        self.name = name
        """What `data` names, for messages."""
        self.fingerprint: str = store.index["fingerprint"]
        """Hash of all examples; how they are cut into files, and in what form, is no part of it."""
        self.sizes: tuple[int, ...] = tuple(store.index["sizes"])
        """Examples of each source; those of the second follow those of the first."""
        self.weights = weights
        """Visits of an epoch to each example, by source."""
        self.bad_rows = BadRows.from_json(store.index["bad_rows"])
        """Rows that were left out."""
        self.notes = notes
        """What the user should know of what was chosen, as the split of a folder."""

    def tell(self) -> None:
        """Print the notes and the bad rows; where several ranks hold a source, on one of them."""
        for note in self.notes:
            print(note, file=sys.stderr)
        self.bad_rows.tell()

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return _example(index, self._store.line(index))

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Example]:
        """Yield the examples from ``start`` to before ``stop`` in order, in flat memory."""
        stop = len(self) if stop is None else min(stop, len(self))
        for index, line in enumerate(self._store.lines(start, stop), start=start):
            yield _example(index, line)


def open_source(config: DataConfig) -> ExampleSource:
    """Open the examples of ``data.path`` or ``data.sources``.

    The first process on a host reads all rows and writes their store into the cache folder;
    others that open the same data meanwhile wait for it. Collective: no.

    Raises:
        LopeError: nothing there, a foreign suffix, no example, bad rows (file and line are
            told), or a setting that would have no effect.
    """
    places = config.places
    inputs = [find_rows(place) for place in places]
    name = ", ".join(config.paths)

    def write(writer: StoreWriter) -> dict[str, Any]:
        index = _read_all(config, list(zip(places, inputs, strict=True)), writer)
        if _key(config, inputs) != key:
            raise LopeError(f"The data of '{name}' changed while they were read; start again.")
        return index

    key = _key(config, inputs)
    notes = tuple(rows.note for one in inputs for rows in one if rows.note)
    weights = tuple(place.weight for place in places)
    return ExampleSource(open_store(key, write), name, weights, notes)


def _key(config: DataConfig, inputs: list[list[Rows]]) -> str:
    """Return the name of the store of these rows, read as the configuration says."""
    parts = [_FORM, config.max_bad_rows, config.allow_empty_response]
    for place, rows in zip(config.places, inputs, strict=True):
        settings = [place.format, sorted(place.columns.items()), place.max_examples]
        parts.append([*settings, [one.identity() for one in rows]])
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _read_all(
    config: DataConfig, inputs: list[tuple[SourceConfig, list[Rows]]], writer: StoreWriter
) -> dict[str, Any]:
    """Check, hash and write the rows of all sources; return the store's index."""
    digest = hashlib.blake2b(digest_size=16)
    bad_rows = BadRows(allowed=config.max_bad_rows)
    sizes = []
    with tqdm(desc="Reading the data", unit=" rows", delay=2, leave=False, disable=None) as bar:
        for place, all_rows in inputs:
            layout = Layout(place, allow_empty_response=config.allow_empty_response)
            size = 0
            for line in _lines(place, all_rows, layout, bad_rows, bar):
                digest.update(line)
                writer.add(line)
                size += 1
            if size == 0 and not bad_rows.total:
                raise LopeError(f"data.path = {place.path!r} holds no example; give at least one.")
            sizes.append(size)
    bad_rows.check()
    for (place, _), size in zip(inputs, sizes, strict=True):
        if size == 0:
            raise LopeError(f"data.path = {place.path!r} holds no good row; give at least one.")
    return {"fingerprint": digest.hexdigest(), "sizes": sizes, "bad_rows": bad_rows.to_json()}


def _lines(
    place: SourceConfig, all_rows: list[Rows], layout: Layout, bad_rows: BadRows, bar: tqdm
) -> Iterator[bytes]:
    """Yield the good rows of one source in the store's form, at most as many as are wanted."""
    left = place.max_examples
    for rows in all_rows:
        for number, row in rows.read(layout.select):
            bad_rows.num_rows += 1
            bar.update()
            try:
                if isinstance(row, RowError):
                    raise row
                line = _line(layout.parse(row))
            except RowError as error:
                bad_rows.add(rows.place(number), error)
                continue
            yield line
            if left is not None:
                left -= 1
                if left == 0:
                    return


def _line(turns: tuple[Turn, ...]) -> bytes:
    text = _ENCODE([[t.role, t.text, t.context] for t in turns])
    try:
        line = text.encode() + b"\n"
    except UnicodeEncodeError:
        raise RowError(
            "not valid Unicode",
            "half of a surrogate pair in the text (a \\ud800 to \\udfff escape without its "
            "partner); remove it",
        ) from None
    if len(line) > ROW_LIMIT:
        raise too_long()
    return line


def _example(index: int, line: bytes) -> Example:
    return Example(index, tuple(Turn(*turn) for turn in json.loads(line)))
