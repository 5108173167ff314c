"""What `launch/ssh.sh` sets on the hosts, by the real launcher under a pdsh that only shows it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[3] / "launch"


def _by_ssh(
    folder: Path,
    *,
    has_pdsh: bool = True,
    hosts: tuple[str, ...] = ("alpha", "beta"),
    script: str = "launch/train.py",
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run ssh.sh over hosts of a pdsh that prints the variables that are set there."""
    tools, hostfile = folder / "tools", folder / "hosts"
    tools.mkdir()
    hostfile.write_text("".join(f"{host} slots=1\n" for host in hosts))
    (tools / "ssh").write_text("#!/bin/bash\necho 10.0.0.1\n")
    there = 'exec env -i bash -c "$1 export -p"'
    if has_pdsh:
        (tools / "pdsh").write_text(
            f"#!/bin/bash\nwhile [[ $1 != export* ]]; do shift; done\n{there}\n"
        )
    for program in tools.iterdir():
        program.chmod(0o755)
    return subprocess.run(
        [str(LAUNCH / "ssh.sh"), str(hostfile), script, "--config", "c"],
        env={
            "PATH": f"{tools}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": str(LAUNCH.parent),
            "DS_ACCELERATOR": "cpu",
            "HOME": str(folder),
            **variables,
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_ssh_sets_what_a_recipe_reads_on_every_host_and_no_secret(tmp_path: Path) -> None:
    (tmp_path / ".deepspeed_env").write_text("NCCL_DEBUG=INFO\nLOPE_SEED=2\n")
    done = _by_ssh(
        tmp_path,
        LOPE_DATA="/mnt/the data",
        LOPE_SEED="1",
        HF_HUB_OFFLINE="1",
        HF_TOKEN="hf_secret",
        WANDB_MODE="offline",
        WANDB_API_KEY="wandb_secret",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    there = dict(
        line.removeprefix("declare -x ").split("=", 1)
        for line in done.stdout.splitlines()
        if line.startswith("declare -x ") and "=" in line
    )
    assert there["LOPE_DATA"] == '"/mnt/the data"'
    assert there["HF_HUB_OFFLINE"] == '"1"'
    assert there["NCCL_DEBUG"] == '"INFO"'
    assert there["LOPE_SEED"] == '"2"', "the file is read as before"
    assert there["WANDB_MODE"] == '"offline"', "rank 0's tracker is told too"
    assert "hf_secret" not in done.stdout + done.stderr
    assert "wandb_secret" not in done.stdout + done.stderr


def test_a_value_that_ssh_would_change_is_refused(tmp_path: Path) -> None:
    done = _by_ssh(tmp_path, LOPE_DATA="/mnt/$HOME")
    assert done.returncode == 2
    assert "LOPE_DATA = '/mnt/$HOME'" in done.stderr
    assert done.stderr.count("error: ") == 1


def test_one_host_is_started_here_and_is_sent_nothing(tmp_path: Path) -> None:
    (tmp_path / ".deepspeed_env").write_text("# nothing\n")
    script = tmp_path / "script.py"
    script.write_text("import os\nprint('read', os.environ['LOPE_DATA'])\n")
    done = _by_ssh(tmp_path, hosts=("alpha",), script=str(script), LOPE_DATA="/mnt/$HOME")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "read /mnt/$HOME" in done.stdout


@pytest.mark.skipif(shutil.which("pdsh", path="/usr/bin:/bin") is not None, reason="pdsh is here")
def test_a_missing_pdsh_is_one_sentence_and_no_other_try(tmp_path: Path) -> None:
    done = _by_ssh(tmp_path, has_pdsh=False)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "install pdsh" in done.stderr
    assert "Traceback" not in done.stderr
    assert "restart 1" not in done.stderr
