"""An export's folder: whole or absent, and never over one that exists."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from lope_dist.core.errors import LopeError
from lope_dist.train.integrity import publish, seal


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Context with a folder to write into; it becomes ``out`` when the block ends well.

    Raises:
        LopeError: ``out`` exists, or cannot be written; nothing is left behind.
    """
    refuse_existing(out)
    staging = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        staging.mkdir(parents=True)
        yield staging
        for path in staging.iterdir():
            path.chmod(0o644)  # safetensors gives its files to their owner alone
        seal(staging)
        refuse_existing(out)  # meanwhile another export may have ended there
        publish(staging, out)
    except (OSError, SafetensorError) as error:
        raise LopeError(
            f"The export to '{out}' could not be written ({error}); nothing was left there."
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def refuse_existing(out: Path) -> None:
    """Refuse a path that is taken.

    Raises:
        LopeError: ``out`` exists.
    """
    if out.exists():
        raise LopeError(f"'{out}' exists already and was left as it is; name another --out.")
