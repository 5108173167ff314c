"""Ranks forked from a warm process behave as fresh interpreters do: `support.forked`."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.launching import REPOSITORY, Rank, run_ranks, start_ranks

pytestmark = [pytest.mark.dist, pytest.mark.timeout(300)]

SCRIPT = """
import atexit, os, sys
atexit.register(lambda: print("at exit", flush=True))
said = "rank", os.environ["RANK"], os.environ["MINE"], sys.argv[1:], os.getcwd(), __name__
print(*said, flush=True)
print("to stderr", file=sys.stderr, flush=True)
how = sys.argv[1]
if how == "raise":
    raise ValueError("the cause")
if how == "exit":
    sys.exit(3)
if how == "sentence":
    sys.exit("one sentence")
if how == "now":
    os._exit(69)
if how == "kill":
    os.kill(os.getpid(), 9)
"""
STATUS = {"end": 0, "raise": 1, "exit": 3, "sentence": 1, "now": 69, "kill": -9}


def both(folder: Path, how: str) -> list[list[Rank]]:
    """Run the script on two ranks, forked and fresh."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    arguments, mine = [str(script), how], {"MINE": "yes"}
    fresh = start_ranks(arguments, 2, folder=folder, environment=mine)
    return [run_ranks(arguments, 2, folder=folder, environment=mine), fresh.wait()]


@pytest.mark.parametrize("how", STATUS)
def test_a_forked_rank_ends_as_a_fresh_one(tmp_path: Path, how: str) -> None:
    forked, fresh = both(tmp_path, how)
    for number, (one, other) in enumerate(zip(forked, fresh, strict=True)):
        assert one.status == other.status == STATUS[how]
        for output in (one.output, other.output):
            said = f"rank {number} yes ['{how}'] {REPOSITORY} __main__"
            assert said in output
            assert "to stderr" in output
            assert ("at exit" in output) is (how not in ("now", "kill"))
            assert ("the cause" in output) is (how == "raise")
            assert ("one sentence" in output) is (how == "sentence")


def test_forked_ranks_that_do_not_end_are_killed(tmp_path: Path) -> None:
    script = tmp_path / "sleeps.py"
    script.write_text("import time; print('begun', flush=True); time.sleep(600)")
    with pytest.raises(TimeoutError, match=r"ranks \[0, 1\] did not end within 3 s\n(.|\n)*begun"):
        run_ranks([str(script)], 2, folder=tmp_path, timeout_s=3)
