"""sshd on each host, with keys that belong to nobody else."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faults.hosts import Hosts

_READY_S = 10.0
_SSHD = """
Port 22
HostKey {keys}/host
AuthorizedKeysFile {keys}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
MaxStartups 100
LogLevel ERROR
"""
_SSH = """
IdentityFile {keys}/user
IdentitiesOnly yes
UserKnownHostsFile {keys}/known_hosts
StrictHostKeyChecking yes
BatchMode yes
ConnectTimeout 5
LogLevel ERROR
"""


def start_sshd(group: Hosts) -> None:
    """Start sshd on each host with keys of their own, and put an `ssh` that knows them in bin/."""
    keys = group.folder / "keys"
    keys.mkdir()
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)], check=True
        )
    public = (keys / "host.pub").read_text()
    known = "".join(f"{host.name},{host.address} {public}" for host in group)
    (keys / "known_hosts").write_text(known)
    (keys / "sshd_config").write_text(_SSHD.format(keys=keys))
    (keys / "ssh_config").write_text(_SSH.format(keys=keys))
    program = group.folder / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {keys / "ssh_config"} "$@"\n')
    program.chmod(0o755)
    daemon = str(shutil.which("sshd"))
    for host in group:
        log = group.folder / f"sshd-{host.name}.log"
        started = host.start([daemon, "-f", str(keys / "sshd_config")], log)
        assert started.wait(_READY_S) == 0, log.read_text()
