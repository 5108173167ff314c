"""What `lope launch` becomes: ranks for scripts that have them, one process for those without."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.cli import launch as of_launch
from lope_dist.core.errors import LopeError


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch):
    """Return a function: arguments -> what the process becomes on a machine of 8 GPUs."""

    def execute(_: str, command: list[str], __: dict[str, str]) -> None:
        raise SystemExit(" ".join(command))

    monkeypatch.setattr(os, "execvpe", execute)
    monkeypatch.setattr(of_launch, "_count_gpus", lambda **_: 8)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["launch", *arguments])
        if isinstance(result.exception, LopeError):
            raise result.exception
        return result.output.strip()

    return run


def test_a_corpus_is_built_once_and_not_for_each_gpu(become) -> None:
    interpreter, script, *rest = become("corpus", "--config", "c", "--tasks", "4").split()
    assert interpreter == sys.executable
    assert Path(script).parts[-2:] == ("launch", "corpus.py")
    assert rest == ["--config", "c", "--tasks", "4"]
    assert "one_host.py 8 " in become("train", "c")


@pytest.mark.parametrize("option", ["--ranks", "--hostfile"])
def test_a_corpus_has_no_ranks(become, tmp_path: Path, option: str) -> None:
    (tmp_path / "2").write_text("a slots=1\n")
    with pytest.raises(LopeError, match=rf"corpus: .*{option}.*--workers"):
        become("corpus", option, str(tmp_path / "2") if option == "--hostfile" else "2")
