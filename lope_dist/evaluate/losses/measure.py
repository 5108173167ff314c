"""`lope loss`: the loss of held-out responses, row by row of a table, into `RUN/losses/`."""

from __future__ import annotations

import glob
import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lope_dist.core.bars import Bar, bar
from lope_dist.core.errors import LopeError
from lope_dist.core.files import refuse_unwritable
from lope_dist.core.locks import file_lock
from lope_dist.core.runlog import write_json
from lope_dist.core.side_files import loss_file
from lope_dist.engine.exchange import refuse_unlike
from lope_dist.engine.world import World
from lope_dist.evaluate.loaded.load import (
    PURIFIED,
    LoadedRun,
    load_run,
    load_run_config,
    run_checkpoint,
)
from lope_dist.evaluate.loaded.parallel import agreed, is_main, on_main
from lope_dist.evaluate.loaded.rows import Row, of_checkpoint, rows_for, usual_words
from lope_dist.evaluate.losses.examples import (
    data_fingerprint,
    first_ids,
    open_examples,
    validation_examples,
)
from lope_dist.evaluate.losses.likelihood import RowLoss, iter_row_losses
from lope_dist.train.checkpoint.folder import Checkpoint
from lope_dist.train.checkpoint.same_base import base_sha

FOLDER = "losses"
USUAL = ("masked", "all", "base")
"""Rows that are measured where none are named."""
_SAVE_EVERY_S = 20


@dataclass(frozen=True)
class LossRequest:
    """Which losses to measure: of which rows of experts, on which examples."""

    data: str | None
    """Examples in a form that training reads; None: the rows that the run validates on."""
    experts: tuple[str, ...] | None = None
    """Words of `rows_for`; None: those of masked, all and base that the run has."""
    limit: int | None = None
    """The first so many examples; None: all."""
    batch_size: int = 16
    """Rows of a forward pass at most."""
    checkpoint: str = "last"
    """Which of the run's: `last`, `best`, a number of steps or a folder's name."""


def measure_losses(
    run_dir: Path,
    request: LossRequest,
    *,
    progress: bool = True,
    world: World | None = None,
    base: str = "auto",
) -> dict[str, Any]:
    """Return the losses of the rows asked for on the examples asked for.

    What is measured is kept in `RUN/losses/<stem of data>.json`, example by example; of the rows
    that the run validates on, in `RUN/losses/validation.json`. So a call does only what is missing:
    another one may have been stopped, had a smaller limit, or been of other rows. Losses of another
    adapter are replaced.

    With a ``world`` its ranks share the work, and rank 0 writes; ``base`` as for `load_run`.

    Collective: yes, with a ``world``.

    Returns:
        What the file holds, of these rows and examples alone.

    Raises:
        LopeError: not a run, unknown experts, data that cannot be read or differ between ranks, a
            file of losses of other data, or, without data, a run that holds no rows out.
    """
    config = load_run_config(run_dir)
    checkpoint = agreed(run_checkpoint(run_dir, request.checkpoint), world)
    is_purified = checkpoint.stage == PURIFIED
    words = request.experts or usual_words(USUAL, config.adapter, is_purified=is_purified)
    rows = rows_for(words, config.adapter, is_purified=is_purified)
    rows = of_checkpoint(rows, request.checkpoint, checkpoint)
    if request.data is None:
        source, data = validation_examples(config, run_dir), "validation"
    else:
        source, data = open_examples(config, request.data), request.data
    ids = first_ids(source, request.limit)
    fingerprint = data_fingerprint(config, source)
    asked = {"rows": fingerprint, "--experts": [row.name for row in rows]}
    refuse_unlike(asked, world, "give all ranks the same rows and options")
    table = _LossFile(run_dir, data, fingerprint, checkpoint)
    on_main(world, table.check)
    writes = is_main(world)
    run: LoadedRun | None = None
    for row in rows:
        missing = on_main(world, partial(table.missing, row, ids))
        if missing:
            on_main(world, partial(refuse_unwritable, run_dir))
            run = run or load_run(
                run_dir,
                checkpoint=checkpoint,
                progress=progress and writes,
                world=world,
                base=base,
            )
            examples = [source[i] for i in missing]
            batches = iter_row_losses(run, examples, batch_size=request.batch_size)
            progress_bar = bar(row.name, len(missing), "rows", is_shown=progress and writes)
            with closing(progress_bar), run.context.answering(row):
                if writes:
                    _keep(batches, row, table, progress_bar)
                else:
                    deque(batches, maxlen=0)
    return on_main(world, lambda: table.view(rows, ids))


def _keep(batches: Iterable[list[RowLoss]], row: Row, table: _LossFile, progress_bar: Bar) -> None:
    unsaved: list[RowLoss] = []
    saved_at = time.monotonic()
    try:
        for losses in batches:
            unsaved += losses
            progress_bar.update(len(losses))
            if time.monotonic() - saved_at > _SAVE_EVERY_S:
                table.add(row, unsaved)
                unsaved, saved_at = [], time.monotonic()
    finally:  # a stop too keeps what is done
        table.add(row, unsaved)


class _LossFile:
    """`RUN/losses/<stem>.json`; several processes may add rows of their own to it."""

    def __init__(self, run_dir: Path, data: str, fingerprint: str, checkpoint: Checkpoint) -> None:
        self._path = run_dir / FOLDER / f"{Path(data).stem}.json"
        self._data, self._fingerprint = _absolute(data), fingerprint
        self._adapter_sha256, self._base_sha = checkpoint.adapter_sha256, base_sha(checkpoint)

    def check(self) -> None:
        """Refuse losses of other data, before anything is measured.

        Raises:
            LopeError: there are such.
        """
        self._read()

    def missing(self, row: Row, ids: range) -> list[int]:
        """Return the examples whose loss is missing of a row."""
        measured = self.losses(row)
        return [i for i in ids if i not in measured]

    def losses(self, row: Row) -> dict[int, RowLoss]:
        """Return what is measured of a row, by example."""
        entry = self._read()["rows"].get(row.name, {})
        identity = self._identity(row)
        # Older files do not say of which base a row is.
        if not identity.items() <= ({"base_sha": identity.get("base_sha")} | entry).items():
            return {}
        return {loss[0]: RowLoss(*loss) for loss in entry.get("per_row", ())}

    def add(self, row: Row, losses: Sequence[RowLoss]) -> None:
        """Write more losses of a row."""
        if not losses:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(self._path.with_name(f".{self._path.name}.lock")):
            table = self._read()
            all_losses = self.losses(row) | {loss.example_id: loss for loss in losses}
            ordered = [all_losses[i] for i in sorted(all_losses)]
            table["rows"][row.name] = self._identity(row) | summary(ordered)
            write_json(self._path, table)

    def view(self, rows: Iterable[Row], ids: range) -> dict[str, Any]:
        """Return the table of some rows and examples."""
        table_rows = {}
        for row in rows:
            by_id = self.losses(row)
            table_rows[row.name] = self._identity(row) | summary([by_id[i] for i in ids])
        return self._head() | {"rows": table_rows}

    def _read(self) -> dict[str, Any]:
        table = loss_file(self._path.name).recover(self._path.parent)
        if table is None:
            return self._head() | {"rows": {}}
        if table.get("fingerprint") == self._fingerprint:
            return self._head() | {"rows": table["rows"]}
        # Older files hold the path as it was given, from what was the current folder.
        if Path(table["data"]).expanduser().resolve() != Path(self._data).resolve():
            raise LopeError(
                f"{self._path} holds losses of other data of that name ({table['data']}); rename "
                f"{self._data}, or remove that file."
            )
        return self._head() | {"rows": {}}  # the data changed since

    def _head(self) -> dict[str, Any]:
        return {"data": self._data, "fingerprint": self._fingerprint}

    def _identity(self, row: Row) -> dict[str, Any]:
        if row.experts == "none":
            return row.identity() | {"adapter_sha256": None, "base_sha": self._base_sha}
        return row.identity() | {"adapter_sha256": self._adapter_sha256}


def _absolute(data: str) -> str:
    """Return an absolute path for data on disk, so that files of one name in two folders differ."""
    path = Path(data).expanduser()
    return str(path.absolute()) if path.exists() or glob.has_magic(data) else data


def summary(losses: Sequence[RowLoss]) -> dict[str, Any]:
    """Return mean loss, its standard error, and all that they are made of.

    The mean is over tokens, and rows are what was sampled: the standard error is that of the ratio
    of two sums over rows. Both are None where there is nothing to divide by.
    """
    num_tokens, num_rows = sum(row.num_tokens for row in losses), len(losses)
    mean = stderr = None
    if num_tokens:
        mean = math.fsum(row.loss for row in losses) / num_tokens
        if num_rows > 1:
            squares = math.fsum((row.loss - mean * row.num_tokens) ** 2 for row in losses)
            stderr = math.sqrt(squares * num_rows / (num_rows - 1)) / num_tokens
    return {
        "loss_per_token": mean,
        "stderr": stderr,
        "num_tokens": num_tokens,
        "num_rows": num_rows,
        "per_row": [list(astuple(row)) for row in losses],
    }
