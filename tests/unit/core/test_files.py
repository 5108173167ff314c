"""A folder in which nothing can be written is refused before the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.core.files import refuse_unwritable


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path)
    refuse_unwritable(tmp_path / "not" / "there yet")
    assert list(tmp_path.iterdir()) == [], "nothing is left, and nothing was made"
    (tmp_path / "file").write_text("x")
    for place in (Path("/proc/run"), Path("/proc/a/b"), tmp_path / "file" / "run"):
        with pytest.raises(LopeError, match=f"{place} cannot be written"):
            refuse_unwritable(place)
