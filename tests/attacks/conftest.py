"""What an attack leaves behind if it worked."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path):
    """Path that an attack creates; the test fails if it exists in the end."""
    path = tmp_path / "attacked"
    yield path
    assert not path.exists(), "the attack ran"


@pytest.fixture
def bomb(mark: Path) -> bytes:
    """A pickle that makes the mark when read."""
    data = pickle.dumps(Bomb(mark))
    pickle.loads(data)  # it does work
    mark.unlink()
    return data
