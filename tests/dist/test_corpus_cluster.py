"""The parts of a corpus as tasks of datatrove: the bytes of a build without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lope_dist.config.load import dump_config
from lope_dist.core.errors import LopeError
from lope_dist.corpus.built.build import merge
from lope_dist.corpus.built.cluster import SlurmJob, submit_slurm
from lope_dist.train.corpus_build import build_corpus

pytestmark = [pytest.mark.dist, pytest.mark.timeout(900)]
SHARD = 10
SBATCH = """#!/bin/sh
# Runs a job array's tasks here, one after the other, as Slurm would on its nodes.
for last; do :; done
if grep -q launch_pickled_pipeline "$last"; then
  for task in 0 1; do
    SLURM_ARRAY_TASK_ID=$task SLURM_JOB_ID=7 SLURM_NODELIST=here sh "$last" >> "$LOG" 2>&1 || exit 1
  done
fi
echo "Submitted batch job 7"
"""
SRUN = """#!/bin/sh
while [ "$1" != launch_pickled_pipeline ]; do shift; done
exec "$PYTHON" -m datatrove.tools.launch_pickled_pipeline "$2"
"""


@pytest.fixture(scope="module")
def case(config_in, tmp_path_factory: pytest.TempPathFactory):
    """A recipe on disk, and the shards and manifest of its corpus built in this process."""
    pytest.importorskip("datatrove")
    folder = tmp_path_factory.mktemp("cluster")
    config = config_in(folder / "run")
    (folder / "recipe.yaml").write_text(dump_config(config))
    build_corpus(config, folder / "alone", shard_examples=SHARD, progress=False)
    return folder / "recipe.yaml", content(folder / "alone")


def content(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("shards/*"), folder / "manifest.json", folder / "plan.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def launch(recipe: Path, out: Path, *arguments: str, **variables: str):
    script = Path(__file__).parents[2] / "launch" / "corpus.py"
    shared = ["--config", recipe, "--out", out, "--shard-examples", str(SHARD)]
    return subprocess.run(
        [sys.executable, str(script), *map(str, shared), *arguments],
        capture_output=True,
        text=True,
        timeout=150,
        env=os.environ | {"TRANSFORMERS_VERBOSITY": "error"} | variables,
        check=False,
    )


@pytest.mark.thorough
def test_two_local_workers_make_the_same_bytes(case, tmp_path: Path) -> None:
    recipe, expected = case
    ended = launch(recipe, tmp_path / "out", "--tasks", "3", "--workers", "2")
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert len([name for name in expected if name.endswith(".arrow")]) == 18
    assert content(tmp_path / "out") == expected


@pytest.mark.thorough
def test_a_slurm_array_makes_the_same_bytes(case, tmp_path: Path) -> None:
    """Scheduling is Slurm's; its commands are stood in for, what they run is not."""
    recipe, expected = case
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (
        ("sbatch", SBATCH),
        ("srun", SRUN),
        ("scontrol", "#!/bin/sh\necho here\n"),
    ):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    arguments = ["--tasks", "2", "--slurm-partition", "cpu", "--slurm-env", "export ACTIVATED=1"]
    ended = launch(
        recipe,
        tmp_path / "out",
        *arguments,
        PATH=f"{commands}:{os.environ['PATH']}",
        LOG=str(tmp_path / "log"),
        PYTHON=sys.executable,
    )
    log = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
    assert ended.returncode == 0, ended.stderr[-3000:] + log[-3000:]
    assert "Job 7 is submitted" in ended.stdout
    merge([tmp_path / "out"])
    assert content(tmp_path / "out") == expected


def test_a_machine_without_slurm_is_told(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("datatrove")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LopeError, match="leave the partition out to build here"):
        submit_slurm(print, tmp_path / "logs", SlurmJob("cpu", "04:00:00"), tasks=1, workers=1)
    assert not (tmp_path / "logs").exists()
