"""What one host tells of itself; runs there by `python -m lope_dist.doctor probe`."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import psutil

from lope_dist.core.files import nearest_existing
from lope_dist.core.fingerprint import fingerprint
from lope_dist.core.versions import code_version, package_versions
from lope_dist.engine.rendezvous import first_address


def probe(question: dict[str, Any]) -> dict[str, Any]:
    """Answer the doctor's question on this host.

    Args:
        question: `hosts`: names to resolve and to find routes to; `folders`: where something
            is written, by purpose; `files`: paths to take a fingerprint of, by purpose; `marker`:
            a file that the first host made, or None.
    """
    return {
        "hostname": socket.gethostname(),
        "own_name": _resolve(socket.gethostname()),
        "names": {name: _resolve(name) for name in question["hosts"]},
        "routes": {name: _interface_towards(name) for name in question["hosts"]},
        "interfaces": {
            name: first_address(entries) for name, entries in sorted(psutil.net_if_addrs().items())
        },
        "address": _launchers_address(),
        "versions": _versions(),
        "devices": _num_devices(),
        "free": {key: _free(Path(path)) for key, path in question["folders"].items()},
        "prints": {key: fingerprint(paths) for key, paths in question["files"].items()},
        "sees_marker": question.get("marker") is None or Path(question["marker"]).exists(),
    }


def _versions() -> dict[str, str]:
    code = code_version()
    return {"lope_dist": f"{code['version']} ({code['source']})"} | package_versions()


def _resolve(name: str) -> list[str]:
    try:
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(name, None)})
    except OSError:
        return []


def _launchers_address() -> str | None:
    """Return the address that DeepSpeed's launcher takes for this host when it is the first."""
    try:
        done = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return next(iter(done.stdout.split()), None)


def _interface_towards(name: str) -> str | None:
    """Return the interface by which packets for a host leave this one."""
    try:
        family, _, _, _, address = socket.getaddrinfo(name, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe_socket:
            probe_socket.connect(address)  # sends nothing
            source = probe_socket.getsockname()[0]
    except OSError:
        return None
    for interface, addresses in psutil.net_if_addrs().items():
        if any(entry.address.split("%")[0] == source for entry in addresses):
            return interface
    return None


def _num_devices() -> int | None:
    """Return the number of CUDA devices; None on a host without any."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else None


def _free(path: Path) -> dict[str, Any]:
    """Return the free bytes where a folder is or would be, and whether it can be written."""
    existing = nearest_existing(path)
    writable = os.access(existing, os.W_OK | os.X_OK)
    return {"bytes": shutil.disk_usage(existing).free, "writable": writable}
