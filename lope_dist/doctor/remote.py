"""Run the doctor's own commands on a host: here, or there by ssh."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_SSH = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "PasswordAuthentication=no"]
_FORWARDED = ("PYTHON", "NCCL", "DS_ACCELERATOR", "OMP_NUM_THREADS")
"""How names begin that are sent beside those of `sent_variables`; DeepSpeed sends the first two."""
SSH_FAILED = 255


def start(
    host: str | None, arguments: Sequence[str], sent: Mapping[str, str]
) -> subprocess.Popen[str]:
    """Start `python -m lope_dist.doctor ARGUMENTS` on a host; None is this one.

    On another host it runs in this working directory with this Python and the variables that a
    launch sets there, as DeepSpeed's launcher does it: the shell there expands `$`.

    Args:
        host: Its name in the hostfile.
        arguments: Of the doctor's own commands.
        sent: What `sent_variables` says; nothing of it is set on this host.
    """
    command = [sys.executable, "-m", "lope_dist.doctor", *arguments]
    if host is not None:
        forwarded = {k: v for k, v in os.environ.items() if k.startswith(_FORWARDED)}
        exports = "".join(f'export {k}="{v}"; ' for k, v in (forwarded | dict(sent)).items())
        line = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(command)}"
        command = [*_SSH, host, exports + line]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def reach(host: str, timeout_s: float = 15.0) -> str | None:
    """Return why ssh does not reach a host, or None if it does."""
    try:
        done = subprocess.run(
            [*_SSH, host, "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        return "ssh is not installed"
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout_s:.0f} s"
    return None if done.returncode == 0 else _last_line(done.stderr) or "ssh failed"


def finish(process: subprocess.Popen[str], text: str, timeout_s: float) -> tuple[Any, str]:
    """Return the JSON value that a started command printed last, or None and why not."""
    try:
        out, error = process.communicate(text, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None, f"no answer within {timeout_s:.0f} s"
    try:
        return json.loads(_last_line(out)), ""
    except ValueError:
        return None, _last_line(error) or f"status {process.returncode}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
