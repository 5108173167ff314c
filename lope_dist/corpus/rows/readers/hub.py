"""One split of a data set of the hub, downloaded whole or fetched as it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lope_dist.config.data import SourceConfig
from lope_dist.core.errors import LopeError, first_line
from lope_dist.corpus.rows.readers.arrow import BATCH, rows_of
from lope_dist.corpus.rows.readers.base import NumberedRows, Select
from lope_dist.corpus.rows.turns import RowError


class HubRows:
    """The rows of a hub data set; its metadata are fetched at once.

    Raises:
        LopeError: it cannot be reached, or is not there.
    """

    def __init__(self, name: str, section: SourceConfig) -> None:
        import datasets  # slow to import, and files do not need it

        self.note = ""
        self.name, self._section = name, section
        try:
            self._builder = datasets.load_dataset_builder(name, section.subset)
        except Exception as error:  # whatever the hub client raises: it is the user's to mend
            raise self._unreadable(error) from None

    def identity(self) -> list[Any]:
        """Return name and revision."""
        builder = self._builder
        return [self.name, builder.config_id, str(builder.hash), self._section.split]

    def read(self, select: Select) -> NumberedRows:
        """Yield all rows in order."""
        try:
            rows = self._open()
            names = rows.column_names
            if names:
                rows = rows.select_columns(select(names))
            # As Arrow, for its types tell which nulls are members that are absent.
            tables = rows.with_format("arrow")
            batches = tables if self._section.streaming else tables.iter(BATCH)
            yield from enumerate(rows_of(iter(batches)), start=1)
        except RowError as error:  # of the columns, not of a row
            raise LopeError(f"Data set '{self.name}': {error}.") from None
        except Exception as error:
            raise self._unreadable(error) from None

    def location(self, number: int) -> str:
        """Return data set, split and row."""
        return f"Data set '{self.name}', split '{self._section.split}', row {number}"

    def _open(self) -> Any:
        if self._section.streaming:
            return self._builder.as_streaming_dataset(split=self._section.split)
        self._builder.download_and_prepare()
        return self._builder.as_dataset(split=self._section.split)

    def _unreadable(self, error: Exception) -> LopeError:
        reason = first_line(error)
        return LopeError(
            f"data.path = {self.name!r} is no local file or folder (looked in {Path.cwd()}) and "
            f"could not be loaded from the hub (split '{self._section.split}'): {reason}."
        )
