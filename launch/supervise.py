r"""Start a launcher and start it again when it fails: `launch/supervise.py [OPTIONS] -- COMMAND`.

    python launch/supervise.py --max-restarts 5 -- \
        deepspeed --hostfile hosts launch/train.py CONFIG

Under `deepspeed --no_ssh` and `torchrun` run the same line on every host; the hosts meet again.

    a launch ends with          then
    0                           done
    2 (a mistake of the user)   no restart: it would be made again
    75 (stopped on request,     `--resume auto` and on, unless the request came to this process
       checkpoint written)
    anything else, or a killed  wait 5 s, 10 s, 20 s ... at most 60 s, `--resume auto` and on
       process

It gives up after `--max-restarts` failures in a row. The row begins anew with a launch that came to
something: its ranks wrote a checkpoint or answers, or, for a host without ranks, it ran for
`--progress` seconds. That must be longer than ranks wait for others that do not come.

SIGTERM, SIGINT, SIGUSR1 and SIGHUP are passed on as SIGTERM; what has not ended after `--grace`
seconds is killed. Whatever way a launch ends, every process it started is ended before the next
one. A supervisor that is killed leaves no run behind: a guardian passes its end on as SIGTERM too,
so that a checkpoint is written, and a supervisor that is started again meanwhile waits for it.
Variables for the ranks: LOPE_EXIT_FILE, where they note why they end (torchrun hides their
statuses) and beside it that they came to something, and LOPE_GRACE_S, how long a run that is
ending may still hold the folder.
LOPE_PROGRESS_S is `--progress` where a script calls this.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from lope_dist.core.scratch import scratch_folder

USER_ERROR, ON_REQUEST, BY_CTRL_C = 2, 75, 130
_PR_SET_CHILD_SUBREAPER = 36
_LONGEST_WAIT_S = 60.0


def main() -> None:
    """Parse the options and supervise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--max-restarts", type=int, default=10, help="give up after so many failures in a row"
    )
    parser.add_argument(
        "--progress",
        type=float,
        default=os.environ.get("LOPE_PROGRESS_S") or 7200.0,
        metavar="S",
        help="a launch that ran for so long begins the row anew (default: 7200)",
    )
    parser.add_argument("--wait", type=float, default=5.0, metavar="S", help="before the first")
    parser.add_argument(
        "--grace", type=float, default=60.0, metavar="S", help="between a signal and the kill"
    )
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="the launch, behind --")
    arguments = parser.parse_args()
    supervisor = Supervisor(arguments.command, arguments.grace)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as of nohup
            signal.signal(number, supervisor.stop)
    sys.exit(supervise(supervisor, arguments.max_restarts, arguments.progress, arguments.wait))


def supervise(supervisor: Supervisor, max_restarts: int, progress_s: float, wait_s: float) -> int:
    """Launch until the work is done or there is no use in another try; return the status."""
    num_restarts = 0
    while True:
        began = time.monotonic()
        status, reason = supervisor.launch(resume=num_restarts > 0)
        if status == 0 or supervisor.is_stopped:
            return status
        if status in (USER_ERROR, BY_CTRL_C):
            _say(f"{reason}; no restart, for it would end the same way or was not wanted.")
            return status
        if supervisor.came_to_something or time.monotonic() - began >= progress_s:
            num_restarts = 0
        if num_restarts >= max_restarts:
            _say(f"{reason}; given up after {num_restarts} restarts in a row.")
            return status
        delay = min(wait_s * 2**num_restarts, _LONGEST_WAIT_S)
        num_restarts += 1
        _say(f"{reason}; restart {num_restarts} of {max_restarts} in {delay:.0f} s.")
        if supervisor.sleep(delay):
            return status


class Supervisor:
    """One launch after another, each with all of the processes that it starts."""

    def __init__(self, command: list[str], grace_s: float) -> None:
        self._command, self._grace_s = command, grace_s
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline: float | None = None
        self._guardian = 0
        self.is_stopped = False
        self.came_to_something = False
        """Whether the last launch wrote what a restart goes on from."""
        # Orphans of a launcher that was killed become our children, and can be found.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def launch(self, resume: bool) -> tuple[int, str]:
        """Run the command once; return its status and a few words on how it ended."""
        with scratch_folder("lope-supervise-") as folder:
            notes = folder / "exits"
            command = resumed(self._command) if resume else self._command
            try:
                self._process = subprocess.Popen(
                    command,
                    env={
                        **os.environ,
                        "LOPE_EXIT_FILE": str(notes),
                        "LOPE_GRACE_S": str(self._grace_s),
                    },
                    start_new_session=True,
                )
            except OSError as error:
                return USER_ERROR, f"'{command[0]}' cannot be started ({error.strerror})"
            if self.is_stopped:  # the signal came before there was a process
                self._pass_on()
            self._guardian, release = _guard(self._process.pid, self._grace_s, folder)
            status = self._wait()
            num_left = self._end_all()
            self._process = None
            with contextlib.suppress(BrokenPipeError):  # the guardian itself was killed
                os.write(release, b"!")
            os.close(release)
            os.waitpid(self._guardian, 0)
            self.came_to_something = notes.with_name(f"{notes.name}.progress").exists()
            return _judge(status, num_left, notes.read_text() if notes.exists() else "")

    def stop(self, number: int, _frame: object) -> None:
        """Pass a signal on; the launch that follows from it is the last."""
        self.is_stopped = True
        _say(f"{signal.Signals(number).name} came; the launch is asked to end.")
        self._pass_on()

    def sleep(self, seconds: float) -> bool:
        """Wait and return whether a signal came meanwhile."""
        end = time.monotonic() + seconds
        while not self.is_stopped and time.monotonic() < end:
            time.sleep(0.1)
        return self.is_stopped

    def _pass_on(self) -> None:
        self._deadline = time.monotonic() + self._grace_s
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)

    def _wait(self) -> int:
        assert self._process is not None
        while True:
            try:
                return self._process.wait(0.2)
            except subprocess.TimeoutExpired:
                if self._deadline is not None and time.monotonic() > self._deadline:
                    self._process.kill()

    def _end_all(self) -> int:
        """Kill what the launch has left; return how many still lived.

        A launcher that ends with its ranks is given a moment for them to be gone; one that ends at
        the signal before its ranks have saved, as `deepspeed` does, all of the grace.
        """
        end = max(time.monotonic() + 2, self._deadline or 0)
        while True:
            left = [p for p in psutil.Process().children(recursive=True) if _lives(p)]
            left = [p for p in left if p.pid != self._guardian]
            if not left:
                return 0
            if time.monotonic() < end:
                time.sleep(0.1)
                continue
            for process in left:
                process.kill()
            psutil.wait_procs(left, timeout=10)
            return len(left)


def _guard(launch: int, grace_s: float, folder: Path) -> tuple[int, int]:
    """Fork a guardian that ends a launch when this process is gone without having ended it.

    Returns:
        The guardian, and a pipe: a byte in it releases the guardian.
    """
    reading, writing = os.pipe()
    guardian = os.fork()
    if guardian:
        os.close(reading)
        return guardian, writing
    try:
        os.setsid()  # Ctrl-C and a hang-up are the supervisor's to handle
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.close(writing)
        if not os.read(reading, 1):  # its other end was closed by the kernel
            _end_launch(launch, grace_s)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os._exit(0)


def _end_launch(launch: int, grace_s: float) -> None:
    """Ask a launch to end, and kill what is left of it and of what it started."""
    try:
        root = psutil.Process(launch)
        family = {root, *root.children(recursive=True)}
        os.killpg(launch, signal.SIGTERM)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return
    end = time.monotonic() + grace_s
    while any(map(_lives, family)) and time.monotonic() < end:
        time.sleep(0.2)
        for process in list(family):
            with contextlib.suppress(psutil.NoSuchProcess):
                family |= set(process.children())
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def resumed(command: list[str]) -> list[str]:
    """Return the command with `--resume auto`, if it trains and does not resume already."""
    trains = any(word.endswith("train.py") for word in command)
    resumes = any(word.partition("=")[0] == "--resume" for word in command)
    return [*command, "--resume", "auto"] if trains and not resumes else command


def _judge(status: int, num_left: int, notes: str) -> tuple[int, str]:
    """Return the status that counts and a few words on it."""
    noted = [line.split(" ", 2) for line in notes.splitlines() if line.count(" ") >= 2]
    for own in (USER_ERROR, BY_CTRL_C, ON_REQUEST):
        if status and (first := next((n for n in noted if n[1] == str(own)), None)):
            return own, f"Rank {first[0]} ended with status {own}: {first[2]}"
    if noted and status:
        rank, own, sentence = noted[0]
        return status, f"Rank {rank} ended with status {own}: {sentence}"
    if num_left:
        return status or 1, f"The launcher ended with status {status} and left {num_left} processes"
    if status < 0:
        return 128 - status, f"The launcher was killed by {signal.Signals(-status).name}"
    if status == ON_REQUEST:
        return status, "The run was stopped on request"
    return status, f"The launch ended with status {status}{_killed_by(status)}"


def _killed_by(status: int) -> str:
    """Return what a status says of a killed rank: a shell's 128 + n, DeepSpeed's 256 - n."""
    number = 256 - status if status > 192 else status - 128
    try:
        return f" (a rank was killed by {signal.Signals(number).name})"
    except ValueError:
        return ""


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _say(sentence: str) -> None:
    print(f"supervise: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
