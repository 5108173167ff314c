"""The doctor asks hosts under the variables that a launch would set there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.core.errors import LopeError
from lope_dist.core.sent_variables import sent_variables
from lope_dist.doctor.examine import examine
from lope_dist.doctor.remote import start


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, which is the working directory too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DS_ENV_FILE", raising=False)
    return tmp_path


def test_another_host_gets_what_a_launch_sends(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell there expands what the file says; here it is not set."""
    there = "exec env -i HOME=/there PATH=/usr/bin:/bin"
    (home / "ssh").write_text(  # sets what the command for the other host exports, and shows it
        f'#!/bin/bash\nline="${{@: -1}}"\n{there} bash -c "${{line%%cd *}} env"\n'
    )
    (home / "ssh").chmod(0o755)
    file = "HF_HOME=$HOME/hf\nLOPE_SEED=2\nPATH=/opt/x/bin:$PATH\nPYTHONHASHSEED=7\n"
    (home / ".deepspeed_env").write_text(file)
    monkeypatch.setenv("PATH", f"{home}:/usr/bin:/bin")
    monkeypatch.setenv("LOPE_DATA", "/mnt/the data")
    monkeypatch.setenv("LOPE_SEED", "1")
    monkeypatch.setenv("PYTHONHASHSEED", "3")
    monkeypatch.setenv("HF_TOKEN", "secret")
    output, _ = start("alpha", ["probe"], sent_variables()).communicate(timeout=20)
    assert {
        "LOPE_DATA=/mnt/the data",
        "HF_HOME=/there/hf",
        "LOPE_SEED=2",
        "PATH=/opt/x/bin:/usr/bin:/bin",
        "PYTHONHASHSEED=7",
    } <= {*output.splitlines()}
    assert "secret" not in output


def test_the_recipe_is_read_as_the_hosts_read_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable of the file alone is not set in this shell, and is on the hosts."""
    monkeypatch.setenv("LOPE_RATE", "to be put back")
    monkeypatch.delenv("LOPE_RATE")
    (home / "recipe.yaml").write_text("seed: ${oc.env:LOPE_RATE,1}\n")
    (home / "hosts").write_text("alpha slots=1\nbeta slots=1\n")
    (home / ".deepspeed_env").write_text("LOPE_RATE=from $HOME\nPATH=/nowhere:$PATH\n")
    path = os.environ["PATH"]
    result = CliRunner().invoke(app, ["doctor", "recipe.yaml", "--hostfile", "hosts"])
    assert isinstance(result.exception, LopeError)
    assert f"from {home}" in str(result.exception)
    assert os.environ["PATH"] == path, "this shell's programs are still to be used here"


def test_one_host_is_looked_at_here_as_deepspeed_starts_it_here(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "ssh").write_text('#!/bin/bash\n[[ "${@: -1}" == true ]]\n')  # reached, and no Python
    (home / "ssh").chmod(0o755)
    (home / "hosts").write_text("localhost slots=1\n")
    (home / ".deepspeed_env").write_text("# nothing\n")
    monkeypatch.setenv("PATH", f"{home}:/usr/bin:/bin")
    monkeypatch.setenv("LOPE_DATA", "/mnt/$x")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    result = CliRunner().invoke(app, ["doctor", "--hostfile", "hosts", "--json"])
    findings = json.loads(result.stdout)["findings"]
    assert not [f for f in findings if f["check"].startswith("Python on")]
    assert findings[-1]["check"] == "all-reduce over 1 ranks", findings


def test_a_missing_pdsh_is_told_with_what_does_without(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home))
    (home / "hosts").write_text("alpha slots=1\nbeta slots=1\n")
    findings = {finding.check: finding for finding in examine(None, home / "hosts", 1.0, {})}
    assert not findings["pdsh here"].ok
    for word in ("no_ssh.sh", "torchrun.sh", "Slurm"):
        assert word in findings["pdsh here"].fix


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
