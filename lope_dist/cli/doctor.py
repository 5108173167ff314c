"""`lope doctor`: is all ready for a launch?"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lope_dist.cli.options import JsonOption, OverridesArg
from lope_dist.core.sent_variables import SENT, sent_variables

app = typer.Typer()


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="YAML recipe. Its files are checked.")
    ] = None,
    overrides: OverridesArg = None,
    hostfile: Annotated[
        Path | None, typer.Option(help="DeepSpeed's list of hosts. Default: only this host.")
    ] = None,
    min_free: Annotated[float, typer.Option(help="Least free disk space, in GiB.")] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Check hosts, versions, disk, model, data and network before a launch.

    Each problem is printed with its fix.

    Example: lope doctor recipe.yaml --hostfile hosts
    """
    from lope_dist.config.load import load_config
    from lope_dist.doctor.hostfile import read_hostfile

    sent: dict[str, str] = {}
    if hostfile is not None and len(read_hostfile(hostfile)[0]) > 1:
        sent = sent_variables()
        for name, value in sent.items():
            if name.startswith(SENT):  # what the recipe reads on the hosts
                os.environ[name] = os.path.expandvars(value)
    resolved = None if config is None else load_config(config, overrides or ())
    from lope_dist.doctor.examine import examine

    findings = []
    for finding in examine(resolved, hostfile, min_free, sent):
        findings.append(finding)
        if not as_json:
            typer.echo(f"{'✓' if finding.ok else '✗'} {finding.check}: {finding.detail}")
            if finding.fix:
                typer.echo(f"    fix: {finding.fix}")
    problems = sum(not finding.ok for finding in findings)
    if as_json:
        table = {"ok": not problems, "findings": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(table, indent=2))
    elif problems:
        typer.echo(f"{problems} of {len(findings)} checks failed.")
    if problems:
        raise typer.Exit(1)
