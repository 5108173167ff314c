"""The examples of `data`, whatever it names, checked row by row when they are opened.

All rows go through one pass that reads, renders, tokenizes, counts and hashes them and writes
them into a `store`; from then on only the store is read. Rows that were seen once are not read
again until they, or what decides their tokens, change.
"""

from __future__ import annotations

import hashlib
import sys
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from typing import Any

from lope_dist.config.data import DataConfig, SourceConfig
from lope_dist.core.bars import Bar, bar
from lope_dist.core.errors import LopeError, TryAgain
from lope_dist.core.fingerprint import json_hash
from lope_dist.corpus.examples.account import Account, BadRows
from lope_dist.corpus.examples.lines import example_of
from lope_dist.corpus.examples.store import Lines, StoreWriter, open_store
from lope_dist.corpus.examples.survey import LocatedRow, survey
from lope_dist.corpus.examples.unused import Unused
from lope_dist.corpus.rows.layouts import Layout, parsed_rows
from lope_dist.corpus.rows.readers import Rows, find_rows
from lope_dist.corpus.rows.turns import Example, RowError, Turn
from lope_dist.corpus.tokens.prompts import Form
from lope_dist.corpus.tokens.slow_text import SlowRow

__all__ = ["Example", "ExampleSource", "Turn", "open_source"]

_FORM = 6
"""Of what is written; raise it when the same rows come to other examples."""


class ExampleSource:
    """Random and sequential access to the examples of one or several sources, in order.

    It holds none of them in memory and can be sent to another process.
    """

    def __init__(
        self, store: Lines, name: str, weights: tuple[float, ...], notes: tuple[str, ...] = ()
    ) -> None:
        self.store = store
        """Their lines, and what was written beside them."""
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
        self.account = Account(**store.index["account"])
        """What the others became."""
        self.notes = notes
        """What the user should know of what was chosen, as the split of a folder."""

    @property
    def has_weights(self) -> bool:
        """Whether an example has another weight than 1."""
        return self.account.weighted > 0

    def tell(self) -> None:
        """Print the notes and the bad rows; where several ranks hold a source, on one of them."""
        for note in self.notes:
            print(note, file=sys.stderr)
        self.bad_rows.tell()

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return example_of(index, self.store.line(index).split(b" ", 2)[2])

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Example]:
        """Yield the examples from ``start`` to before ``stop`` in order, in flat memory."""
        stop = len(self) if stop is None else min(stop, len(self))
        for index, line in enumerate(self.store.lines(start, stop), start=start):
            yield example_of(index, line.split(b" ", 2)[2])

    def first_of_row(self, row: int) -> int:
        """Return the first example of a row, by its number in the first file that has it.

        Raises:
            LopeError: no example is of this row.
        """
        for number in range(len(self.store.index["files"])):
            index = bisect_left(range(len(self)), (number, row), key=self._where)
            if index < len(self) and self._where(index) == (number, row):
                return index
        raise LopeError(
            f"Row {row} of '{self.name}' is no example: there is none of this number, or it was "
            "left out."
        )

    def _where(self, index: int) -> tuple[int, int]:
        file, number, _ = self.store.line(index).split(b" ", 2)
        return int(file), int(number)

    def location(self, index: int) -> tuple[str, int]:
        """Return where the row of an example stands: what it was read from, and its number."""
        file, number = self._where(index)
        return self.store.index["files"][file], number


def open_source(config: DataConfig, form: Form | None = None) -> ExampleSource:
    """Open the examples of ``data.path`` or ``data.sources``.

    The first process on a host reads all rows and writes their store into the cache folder;
    others that open the same data meanwhile wait for it. Collective: no.

    Args:
        config: What to read, and how.
        form: How they become tokens. With it each row is rendered and tokenized, and one that
            the template shows in parts becomes several examples; without it an example is a row.

    Raises:
        LopeError: nothing there, a foreign suffix, no example, bad rows (the message names file and
            line), nothing to learn, or a setting that would have no effect.
    """
    sections = config.all_sources
    inputs = [find_rows(section) for section in sections]
    name = ", ".join(config.paths)

    def write(writer: StoreWriter) -> dict[str, Any]:
        index = _Pass(config, form).run(list(zip(sections, inputs, strict=True)), writer)
        if _key(config, inputs, form) != key:
            raise TryAgain(f"The data of '{name}' changed during reading; start again.")
        return index

    key = _key(config, inputs, form)
    notes = tuple(rows.note for readers in inputs for rows in readers if rows.note)
    weights = tuple(section.weight for section in sections)
    return ExampleSource(open_store(key, write), name, weights, notes)


def _key(config: DataConfig, inputs: list[list[Rows]], form: Form | None) -> str:
    """Return the name of the store of these rows, read as the configuration says."""
    parts: list[Any] = [_FORM, config.max_bad_rows, config.allow_empty_response]
    parts.append(None if form is None else form.identity)
    for section, readers in zip(config.all_sources, inputs, strict=True):
        settings = [section.format, section.max_examples]
        settings += [
            sorted(m.items()) for m in (section.columns, section.roles, section.message_keys)
        ]
        parts.append([*settings, [reader.identity() for reader in readers]])
    return json_hash(parts)


class _Pass:
    """The one pass over the rows of all sources."""

    def __init__(self, config: DataConfig, form: Form | None) -> None:
        self._config, self._form = config, form
        self._bad_rows = BadRows(allowed=config.max_bad_rows)
        self._account = Account()
        self._files: list[Rows] = []
        self._layouts: list[Layout] = []
        self._unused = Unused(form)

    def run(
        self, inputs: list[tuple[SourceConfig, list[Rows]]], writer: StoreWriter
    ) -> dict[str, Any]:
        """Check, hash and write the rows of all sources; return the store's index."""
        digest = hashlib.blake2b(digest_size=16)
        sizes, account, bad_rows = [], self._account, self._bad_rows
        with closing(bar("Reading the data", None, "rows", is_kept=False)) as progress:
            for section, files in inputs:
                before = account.examples
                try:
                    for where, line in self._lines(section, files, progress):
                        digest.update(line + b"\n")
                        writer.add(b"%d %d %b\n" % (*where, line))
                except SlowRow as error:
                    file, number = error.where
                    raise LopeError(f"{self._files[file].location(number)}: {error}") from None
                size = account.examples - before
                if size == 0 and not bad_rows.total and not account.not_learnt:
                    raise LopeError(
                        f"data.path = {section.path!r} holds no example; give at least one."
                    )
                sizes.append(size)
        bad_rows.check()
        for (section, _), size in zip(inputs, sizes, strict=True):
            if size == 0:
                why = "holds no good row; give at least one"
                if not bad_rows.total:
                    why = "holds no row of which anything is to be learnt: all are marked so"
                raise LopeError(f"data.path = {section.path!r} {why}.")
        if self._form is not None and account.target_tokens == 0:
            raise LopeError(
                f"Nothing of {', '.join(self._config.paths)} can be learnt: every answer lies "
                f"beyond data.max_length = {self._config.max_length}; raise it."
            )
        account.unused = self._unused.sentences(self._layouts)
        return {
            "fingerprint": digest.hexdigest(),
            "sizes": sizes,
            "bad_rows": asdict(bad_rows),
            "account": asdict(account),
            "files": [rows.name for rows in self._files],
        }

    def _lines(
        self, section: SourceConfig, files: list[Rows], progress: Bar
    ) -> Iterator[tuple[tuple[int, int], bytes]]:
        """Yield the examples of one source and where they stand."""
        layout = Layout(section, allow_empty_response=self._config.allow_empty_response)
        self._layouts.append(layout)
        account, rows = self._account, self._rows(files, layout)
        keeps = self._config.max_bad_rows == 0  # where none may be left out
        outcomes = survey(rows, self._form, section.max_examples, keeps_untaught=keeps)
        for where, outcome in outcomes:
            self._bad_rows.num_rows += 1
            progress.update()
            if isinstance(outcome, RowError):
                self._bad_rows.add(self._files[where[0]].location(where[1]), outcome)
                continue
            account.not_learnt += not outcome
            account.split += len(outcome) > 1
            for example in outcome:
                account.examples += 1
                account.tokens += example.tokens
                account.target_tokens += example.target_tokens
                account.cut += example.was_cut
                account.with_control_text += example.has_control_text
                account.weighted += example.weight != 1
                account.target_weight += example.weight * example.target_tokens
                if example.target_tokens == 0 and self._form is not None:
                    account.add_without_target(self._files[where[0]].location(where[1]))
                yield where, example.line

    def _rows(self, files: list[Rows], layout: Layout) -> Iterator[LocatedRow]:
        for file in files:
            self._files.append(file)
            for _, number, row in parsed_rows([file], layout):
                if isinstance(row, Example):
                    self._unused.look_at(row)
                yield (len(self._files) - 1, number), row
