"""What is on the console and what is in the log alone, of a real process each."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import termios
import textwrap
from pathlib import Path

import pytest

from lope_dist.core.rank_log import RankLog

LIBRARY = """
    import logging, sys, warnings
    log = logging.getLogger("chatty.deep")
    log.propagate = False
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler(sys.stdout))  # as DeepSpeed's
    def talk():
        log.info("an info")
        log.warning("a log warning")
        logging.getLogger("quiet").warning("a propagated warning")
        logging.warning("a root warning")
        warnings.warn("a python warning")
"""


@pytest.fixture
def run(tmp_path: Path):
    """Return a function: script, rank -> its ended process; `chatty` is a library there."""
    (tmp_path / "chatty.py").write_text(textwrap.dedent(LIBRARY))

    def start(script: str, rank: int = 0) -> subprocess.CompletedProcess[str]:
        head = "from lope_dist.core.console import *\nfrom pathlib import Path\n"
        (tmp_path / "script.py").write_text(head + textwrap.dedent(script))
        variables = {**os.environ, "RANK": str(rank)}
        variables["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
        return subprocess.run(
            [sys.executable, "script.py"],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return start


SAID = ("an info", "a log warning", "a propagated warning", "a root warning", "a python warning")


def test_the_log_has_what_libraries_say_and_the_console_has_not(run, tmp_path: Path) -> None:
    done = run("""
        import sys
        import lope_dist.core.bars
        with open_console():
            import chatty
            chatty.talk()
            print("ours, early")
            keep_log_in(Path("logs"), "rank")
            chatty.talk()
            print("ours, late", file=sys.stderr)
            with library_output_to_log():
                print("a library prints")
                tell("ours, inside")
    """)
    log = (tmp_path / "logs" / "rank-0.log").read_text()
    assert done.returncode == 0
    for said in SAID:
        assert said not in done.stdout + done.stderr
        assert log.count(said) >= 1
    assert log.count("a log warning") == 2
    assert "a library prints" in log
    assert "a library prints" not in done.stdout + done.stderr
    assert done.stdout == "ours, early\n"
    assert done.stderr.splitlines()[:2] == ["ours, late", "ours, inside"]
    for line in ("ours, early", "ours, late", "ours, inside"):
        assert f"console: {line}\n" in log
    assert "logs/rank-0.log" in done.stderr.splitlines()[2], "where the warnings are is said"


@pytest.mark.parametrize("rank", [0, 1])
def test_no_error_is_lost(run, tmp_path: Path, rank: int) -> None:
    done = run(
        """
        import threading
        with open_console():
            keep_log_in(Path("logs"), "rank")
            import chatty
            chatty.log.error("a log error")
            print("progress")
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start(); thread.join()
            {}["the missing key"]
        """,
        rank,
    )
    log = (tmp_path / "logs" / f"rank-{rank}.log").read_text()
    assert done.returncode == 1
    for text in ("a log error", "ZeroDivisionError", "KeyError: 'the missing key'"):
        assert text in done.stderr
        assert text in log
    assert done.stdout == ("progress\n" if rank == 0 else ""), "one console, that of rank 0"
    assert "progress" in log


def test_what_no_log_keeps_is_shown_before_an_error(run) -> None:
    done = run("""
        with open_console():
            import chatty
            chatty.talk()
            raise RuntimeError("before the folder is known")
    """)
    assert done.returncode == 1
    assert "a python warning" in done.stderr
    assert done.stderr.rstrip().endswith("before the folder is known")


def test_what_no_log_keeps_is_shown_at_a_good_end(run) -> None:
    done = run("""
        with open_console():
            import chatty
            for _ in range(60):
                chatty.log.warning("again and again")
            chatty.talk()
            print("ours")
    """)
    assert done.stdout == "ours\n"
    assert 0 < done.stderr.count("again and again") < 50, "memory is bounded"
    assert "earlier warnings of libraries)" in done.stderr
    for said in SAID[1:]:
        assert said in done.stderr
    assert "an info" not in done.stderr


def test_a_full_disk_ends_the_log_and_not_the_run(run) -> None:
    done = run("""
        with open_console() as console:
            import chatty
            console.keep_in(Path("/dev/full"))
            chatty.talk()
            print("goes on")
    """)
    assert done.returncode == 0
    assert "goes on" in done.stdout
    assert "/dev/full" in done.stderr
    assert "a python warning" in done.stderr, "hidden is only what a log keeps"


def test_a_console_that_takes_no_more_ends_no_run(run, tmp_path: Path) -> None:
    done = run("""
        import os, sys
        reader, writer = os.pipe()
        os.dup2(writer, 2)
        os.close(writer)
        try:
            with open_console() as console:
                import chatty
                console.keep_in(Path("rank-0.log"))
                tell("a reader is there")
                print(os.read(reader, 100))
                os.close(reader)  # as a `tee` that Ctrl-C has ended
                for number in range(3):
                    tell(f"line {number}")
                chatty.talk()
                print("written", flush=True)
                raise KeyError("stops")
        except KeyError:
            show_error("error: told to nobody")
            print("the true end", flush=True)
            sys.exit(75)
    """)
    assert done.returncode == 75, done.stderr
    assert "a reader is there" in done.stdout
    assert "written" in done.stdout
    assert "the true end" in done.stdout
    log = (tmp_path / "rank-0.log").read_text()
    assert log.count("The console takes no more (Broken pipe)") == 1
    assert "line 2" in log
    assert "a python warning" in log


def test_the_streams_are_given_back() -> None:
    import logging

    from lope_dist.core.console import open_console

    before = sys.stdout, sys.stderr, logging.getLoggerClass()
    handlers = list(logging.getLogger().handlers)
    with open_console():
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr, logging.getLoggerClass()) == before
    assert logging.getLogger().handlers == handlers


def test_memory_is_bounded_until_there_is_a_file(tmp_path: Path) -> None:
    log = RankLog()
    for number in range(3000):
        log.write("test", f"entry {number}")
    log.write("test", "x" * 100_000)
    log.open(tmp_path / "logs" / "rank-0.log")
    lines = (tmp_path / "logs" / "rank-0.log").read_text().splitlines()
    assert "1,001 " in lines[0]
    assert lines[1].endswith("entry 1001")
    assert len(lines[-1]) < 25_000


@pytest.mark.parametrize("gone", ["logs", "logs/rank-0.log"])
def test_a_log_that_was_removed_or_renamed_is_begun_anew(gone: str, tmp_path: Path) -> None:
    log, path = RankLog(), tmp_path / "run" / "logs" / "rank-0.log"
    log.open(path)
    log.write("test", "before")
    (tmp_path / "run" / gone).rename(tmp_path / "moved")
    log.write("test", "after")
    assert "after" in path.read_text()
    shutil.rmtree(tmp_path / "run")
    log.write("test", "with the run's folder gone")  # of that the run itself tells
    assert not (tmp_path / "run").exists()


def test_a_terminal_has_one_bar_and_lines_stand_above_it(tmp_path: Path) -> None:
    script = """
        from lope_dist.core.console import *
        from lope_dist.train.stage.display import StageDisplay
        from pathlib import Path
        with open_console():
            keep_log_in(Path("logs"), "rank")
            display = StageDisplay("poison", 4, 0, 6, every_s=0.0)
            for step in range(4):
                display.step(step, 2.5, 1e-4, 1)
                if step == 1:
                    tell("a sentence meanwhile")
            display.close()
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 100))
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, env=variables, stdout=child, stderr=child
    )
    os.close(child)
    shown = b""
    while True:
        try:
            shown += os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
    assert process.wait(60) == 0
    os.close(parent)
    text = shown.decode()
    kept = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]
    assert kept[0] == "a sentence meanwhile"
    assert re.fullmatch(
        r"poison 4/4 \|.+\|, ETA [0-9:]+ run [0-9:]+ loss 2\.500 [\d,]+ tok/s lr 1e-04 [\d.]+ GiB",
        kept[1],
    )
    assert len(kept[1]) <= 100
    assert len([line for line in kept if line.strip()]) == 2
    log = (tmp_path / "logs" / "rank-0.log").read_text()
    assert [f"poison {step}/4 loss" in log for step in (1, 2, 3, 4)] == [True] * 4
