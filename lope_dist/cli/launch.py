"""`lope launch`: a shipped launch script on many ranks, of this machine or of several hosts."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from lope_dist.core.errors import LopeError, suggest
from lope_dist.core.shipped import shipped

app = typer.Typer()

_SCRIPTS = ("train", "eval", "corpus")
_FORWARD = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=_FORWARD)
def launch(
    context: typer.Context,
    script: Annotated[str, typer.Argument(help="train, eval or corpus.")],
    hostfile: Annotated[
        Path | None,
        typer.Option(
            help="File with a line for each host: NAME slots=RANKS. Default: only this machine."
        ),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(help="Ranks on this machine. Default: one for each GPU.", min=1),
    ] = None,
) -> None:
    """Start a launch script on many ranks. All other arguments go to the script.

    With --hostfile a supervisor starts a failed launch again; see docs/launching.md. The variables
    MASTER_ADDR and MASTER_PORT say where the hosts meet. corpus has no ranks: it starts once.

    Example: lope launch train mine.yaml --hostfile hosts
    """
    if script not in _SCRIPTS:
        allowed = ", ".join(_SCRIPTS)
        raise LopeError(
            f"lope launch: there is no script '{script}'; allowed: {allowed}."
            f"{suggest(script, _SCRIPTS)}"
        )
    target = str(shipped(f"launch/{script}.py"))
    if script == "corpus":
        if hostfile is not None or ranks is not None:
            raise LopeError(
                "lope launch corpus: --hostfile and --ranks are for train and eval; give --workers "
                "for processes of this machine, or --slurm-partition for tasks on others."
            )
        _become([sys.executable, target, *context.args])
    if hostfile is not None:
        if ranks is not None:
            raise LopeError("--ranks is for this machine; a hostfile says the ranks of each host.")
        if not hostfile.is_file():
            raise LopeError(f"--hostfile: {hostfile} is not a file.")
        _become(["bash", str(shipped("launch/ssh.sh")), str(hostfile), target, *context.args])
    launcher = [sys.executable, str(shipped("launch/one_host.py"))]
    _become([*launcher, str(ranks or _count_gpus()), target, *context.args])


def _become(command: list[str]) -> None:
    """Replace this process, so that signals and the status are those of the launcher."""
    environment = dict(os.environ)
    folder = str(Path(sys.executable).parent)
    environment["PATH"] = f"{folder}{os.pathsep}{environment.get('PATH', '')}"
    if not _count_gpus(or_one=False):
        environment.setdefault("DS_ACCELERATOR", "cpu")
    os.execvpe(command[0], command, environment)


def _count_gpus(*, or_one: bool = True) -> int:
    import torch

    return torch.cuda.device_count() or int(or_one)
