"""Ports for rendezvous on this host."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port that nobody listens on now, on any of this host's addresses."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
