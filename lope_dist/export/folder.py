"""An export's folder: whole or absent, and never over one that exists."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from lope_dist.core.errors import LopeError
from lope_dist.core.files import refuse_unwritable
from lope_dist.train.checkpoint.integrity import publish, seal


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Context with a folder to write into; it becomes ``out`` when the block ends well.

    Raises:
        LopeError: ``out`` exists, or cannot be written; nothing is left behind.
    """
    refuse_existing(out)
    _remove_left_over(out)
    lock = None
    staging = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        staging.mkdir(parents=True)
        lock = _hold(staging)
        yield staging
        for path in staging.rglob("*"):
            if path.is_file():
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
        if lock is not None:
            os.close(lock)


def _hold(staging: Path) -> int | None:
    """Lock a folder that this process writes; None if another holds it."""
    descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # no locks on this file system
        pass
    return descriptor


def _remove_left_over(out: Path) -> None:
    """Remove what killed exports to the same place have left; those that go on hold a lock."""
    partial_name = re.compile(rf"\.{re.escape(out.name)}\.\d+\.partial")
    for path in out.parent.glob(".*.partial"):
        if partial_name.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                if (lock := _hold(path)) is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    os.close(lock)


def refuse_existing(out: Path) -> None:
    """Refuse a path that is taken, or where nothing can be written.

    Raises:
        LopeError: ``out`` exists, or its folder cannot be written.
    """
    if out.exists():
        raise LopeError(f"'{out}' exists already and was not changed; give another --out.")
    refuse_unwritable(out.parent)
