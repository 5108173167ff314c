"""Where the ranks meet, on which network interface, and what is said when they cannot."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import psutil
import torch.distributed as dist

from lope_dist.core.errors import LopeError, PeerLost, first_line, suggest
from lope_dist.engine.processes import local_size

_BACKEND_VARIABLES = {"gloo": "GLOO_SOCKET_IFNAME", "nccl": "NCCL_SOCKET_IFNAME"}


def open_store(backend: str, timeout_s: float, interface: str | None) -> dist.Store:
    """Return the store that the launcher's variables describe; rank 0 keeps it, or torchrun does.

    It waits for nobody: that is the roll call's business. With an ``interface`` the ranks talk
    over it alone: the backend opens its connections there, and the store listens on its address
    and on no other; with all ranks on one host, on that of the launcher. (Under torchrun the
    store is its agent's, which listens on all addresses.)

    Raises:
        LopeError: no such interface on this host, one that contradicts the environment or
            MASTER_ADDR; or a taken port.
        PeerLost: rank 0 does not answer in time.
    """
    rank = int(os.environ["RANK"])
    name, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    address = None if interface is None else _use(interface, backend)
    if address and int(os.environ["WORLD_SIZE"]) == local_size():
        address = socket.gethostbyname(name)  # one host: the launcher's address, a loopback
    keeps_it = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    listener = _listen(address, name, port, interface) if address and keeps_it else None
    try:
        return dist.TCPStore(
            address if address and listener else name,
            port,
            is_master=keeps_it,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            multi_tenant=True,  # a second run in this process finds the first one's port taken
            master_listen_fd=None if listener is None else listener.detach(),
        )
    except (RuntimeError, ValueError) as error:
        reason = first_line(error)
        if "EADDRINUSE" in reason:
            raise LopeError(f"{_taken(f'{name}:{port}')}.") from None
        raise PeerLost(
            f"Rank {rank} cannot use the rendezvous at {name}:{port}, which rank 0 or its launcher "
            f"keeps: it did not answer within engine.timeout_s = {timeout_s:g} s ({reason}); "
            "'lope doctor --hostfile H' checks the way there."
        ) from None


def no_connection(error: Exception) -> str:
    """Return the sentence on ranks that are all here and cannot talk."""
    return (
        f"The {os.environ['WORLD_SIZE']} ranks could not connect to each other "
        f"({first_line(error)}): set engine.interface to the network interface that joins the "
        "hosts; 'lope doctor --hostfile H' tells which one does."
    )


def address_of(interface: str) -> str:
    """Return an interface's first address, IPv4 before IPv6.

    Raises:
        LopeError: there is none of this name, or it has no address.
    """
    interfaces = psutil.net_if_addrs()
    host = socket.gethostname()
    if interface not in interfaces:
        listed = ", ".join(
            f"{name} ({first_address(interfaces[name]) or 'no address'})" for name in interfaces
        )
        raise LopeError(
            f"engine.interface = '{interface}' is no network interface of {host}, which has "
            f"{listed}.{suggest(interface, interfaces)}"
        )
    address = first_address(interfaces[interface])
    if address is None:
        raise LopeError(
            f"engine.interface = '{interface}' has no address on {host}; is it up "
            f"(ip addr show {interface})?"
        )
    return address


def first_address(addresses: list) -> str | None:
    """Return of an interface's addresses, as psutil lists them, IPv4 before IPv6."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for entry in addresses:
            if entry.family == family:
                return entry.address
    return None


def _use(interface: str, backend: str) -> str:
    """Tell the backend the interface and return its address."""
    address = address_of(interface)
    variable = _BACKEND_VARIABLES[backend]
    already = os.environ.get(variable, interface)
    # NCCL's own spelling of an exact name is "=eth0"; without it a prefix is meant.
    if already.lstrip("=") != interface:
        raise LopeError(
            f"engine.interface = '{interface}', but the environment says {variable}={already}; "
            "set them alike or unset the variable."
        )
    os.environ[variable] = f"={interface}" if backend == "nccl" else interface
    return address


def _listen(address: str, name: str, port: int, interface: str | None) -> socket.socket:
    """Return a socket for the rendezvous that listens on this address alone."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        resolved = {info[4][0] for info in socket.getaddrinfo(name, port, family)}
    except socket.gaierror as error:
        raise LopeError(f"The rendezvous' host '{name}' does not resolve ({error}).") from None
    if address not in resolved:
        raise LopeError(
            f"The launcher's MASTER_ADDR is '{name}' ({', '.join(sorted(map(str, resolved)))}), "
            f"but engine.interface = '{interface}' has the address {address} on rank 0's host; "
            f"set MASTER_ADDR={address} for the launch script (deepspeed and torchrun themselves: "
            f"--master_addr {address})."
        )
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise LopeError(f"{_taken(f'{address}:{port}')} ({error.strerror}).") from None
    return listener


def _taken(where: str) -> str:
    return (
        f"The rendezvous cannot listen on {where}: set MASTER_PORT to a free port for the launch "
        "script (deepspeed and torchrun themselves: --master_port), or end the run that holds it"
    )
