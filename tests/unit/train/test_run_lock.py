import os
import subprocess
import sys
from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.train.run.lock import LOCK, run_lock

HOLD = """
import sys, time
from pathlib import Path
from lope_dist.train.run.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_holder_is_refused_with_the_first_ones_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with run_lock(run):
        told = rf"run is being written by process {os.getpid()} on .* since .*; wait for it"
        with pytest.raises(LopeError, match=told), run_lock(run):
            pass
    with run_lock(run):
        pass
    assert not (run / LOCK).exists(), "no run came of it"


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(LopeError, match=f"process {process.pid} on"), run_lock(tmp_path):
        pass
    process.kill()
    process.wait()
    assert f"process {process.pid}" in (tmp_path / LOCK).read_text()
    with run_lock(tmp_path):
        assert f"process {os.getpid()}" in (tmp_path / LOCK).read_text()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(LopeError, match=r"file/run"),
        run_lock(tmp_path / "file" / "run"),
    ):
        pass
