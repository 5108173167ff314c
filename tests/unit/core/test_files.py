"""A folder in which nothing can be written is refused before the work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.core.files import refuse_unwritable, write_atomic
from lope_dist.core.runlog import append_line, read_json, read_lines


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path)
    refuse_unwritable(tmp_path / "not" / "there yet")
    assert list(tmp_path.iterdir()) == [], "nothing is left, and nothing was made"
    (tmp_path / "file").write_text("x")
    for place in (Path("/proc/run"), Path("/proc/a/b"), tmp_path / "file" / "run"):
        with pytest.raises(LopeError, match=f"^{place} "):
            refuse_unwritable(place)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_neither_read_nor_written(make, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    make(path)
    for look in (read_json, lambda path: list(read_lines(path))):
        with pytest.raises((LopeError, OSError), match=r"Errno 22.*x\.json"):
            look(path)
    for write in (lambda path: write_atomic(path, "x"), lambda path: append_line(path, {})):
        with pytest.raises(OSError, match=r"Errno 22.*x\.json"):
            write(path)
    assert [each.name for each in tmp_path.iterdir()] == ["x.json"]
