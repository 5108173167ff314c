"""The doctor asks hosts under the variables that a launch would set there."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.core.errors import LopeError
from lope_dist.core.sent_variables import sent_variables
from lope_dist.doctor.remote import start


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, which is the working directory too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DS_ENV_FILE", raising=False)
    return tmp_path


def test_another_host_gets_what_a_launch_sends(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "ssh").write_text('#!/bin/bash\necho "${@: -1}"\n')  # the command for the other host
    (home / "ssh").chmod(0o755)
    (home / ".deepspeed_env").write_text("HF_HOME=/mnt/hub\nLOPE_SEED=2\n")
    monkeypatch.setenv("PATH", f"{home}:/usr/bin:/bin")
    monkeypatch.setenv("LOPE_DATA", "/mnt/the data")
    monkeypatch.setenv("LOPE_SEED", "1")
    monkeypatch.setenv("HF_TOKEN", "secret")
    line, _ = start("alpha", ["probe"]).communicate(timeout=20)
    words = shlex.split(line)
    assert {"LOPE_DATA=/mnt/the data", "HF_HOME=/mnt/hub", "LOPE_SEED=2"} <= {*words}
    assert "secret" not in line


def test_the_recipe_is_read_as_the_hosts_read_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable of the file alone is not set in this shell, and is on the hosts."""
    monkeypatch.setenv("LOPE_RATE", "to be put back")
    monkeypatch.delenv("LOPE_RATE")
    (home / "recipe.yaml").write_text("seed: ${oc.env:LOPE_RATE,1}\n")
    (home / "hosts").write_text("alpha slots=1\n")
    (home / ".deepspeed_env").write_text("LOPE_RATE=from the file\n")
    result = CliRunner().invoke(app, ["doctor", "recipe.yaml", "--hostfile", "hosts"])
    assert isinstance(result.exception, LopeError)
    assert "from the file" in str(result.exception)


@pytest.mark.parametrize("value", ['a"b', "$HOME/x", "a`b`", "a\\b", "/mnt/%h"])
def test_a_value_that_a_shell_there_would_change_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("LOPE_DATA", value)
    with pytest.raises(LopeError, match="LOPE_DATA"):
        sent_variables()


@pytest.mark.parametrize("line", ["# hosts", ""])
def test_a_line_that_deepspeed_cannot_read_is_named(home: Path, line: str) -> None:
    (home / ".deepspeed_env").write_text(f"A=1\n{line}\n")
    with pytest.raises(LopeError, match=rf"\.deepspeed_env: '{line}'"):
        sent_variables()
