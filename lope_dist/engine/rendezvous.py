"""Where the ranks meet, on which network interface, and what is said when not all come."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import psutil
import torch.distributed as dist

from lope_dist.core.errors import LopeError, PeerLost, suggest

_BACKEND_VARIABLES = {"gloo": "GLOO_SOCKET_IFNAME", "nccl": "NCCL_SOCKET_IFNAME"}


def meet(backend: str, timeout_s: float, interface: str | None) -> None:
    """Create the default process group that the launcher's variables describe.

    Collective: yes.

    Raises:
        LopeError: what `open_store` raises.
        PeerLost: not all ranks came in time, or they cannot connect to each other.
    """
    timeout = timedelta(seconds=timeout_s)
    try:
        store, rank, size = open_store(backend, timeout, interface)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except RuntimeError as error:
        raise PeerLost(_explain(error, timeout_s)) from error


def open_store(
    backend: str, timeout: timedelta, interface: str | None
) -> tuple[dist.Store, int, int]:
    """Return the rendezvous' store, this rank and the number of ranks.

    With an ``interface`` the ranks talk over it alone: the backend opens its connections there,
    and the store of rank 0 listens on its address and on no other; with all ranks on one host, on
    that of the launcher. (Under torchrun the store is its agent's, which listens on all addresses.)

    Collective: yes.

    Raises:
        LopeError: no such interface on this host, one that contradicts the environment or
            MASTER_ADDR; or a taken port.
        RuntimeError: not all ranks came in time.
    """
    name, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    address = None if interface is None else _use(interface, backend)
    if address is None or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store, rank, size = next(iter(dist.rendezvous("env://", timeout=timeout)))
        store.set_timeout(timeout)
        return dist.PrefixStore("default_pg", store), rank, size
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if size == int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1):
        address = socket.gethostbyname(name)  # one host: the launcher's address, a loopback
    listener = _listen(address, name, port, interface) if rank == 0 else None
    store = dist.TCPStore(
        name if listener is None else address,
        port,
        size,
        rank == 0,
        timeout,
        master_listen_fd=None if listener is None else listener.detach(),
    )
    return store, rank, size


def address_of(interface: str) -> str:
    """Return an interface's first address, IPv4 before IPv6.

    Raises:
        LopeError: there is none of this name, or it has no address.
    """
    known = psutil.net_if_addrs()
    host = socket.gethostname()
    if interface not in known:
        told = ", ".join(f"{name} ({_first(known[name]) or 'no address'})" for name in known)
        raise LopeError(
            f"engine.interface = '{interface}' is no network interface of {host}, which has "
            f"{told}.{suggest(interface, known)}"
        )
    address = _first(known[interface])
    if address is None:
        raise LopeError(
            f"engine.interface = '{interface}' has no address on {host}; is it up "
            f"(ip addr show {interface})?"
        )
    return address


def _first(addresses: list) -> str | None:
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
            f"The launcher's --master_addr is '{name}' ({', '.join(sorted(map(str, resolved)))}), "
            f"but engine.interface = '{interface}' has the address {address} on rank 0's host; "
            f"launch with --master_addr {address}."
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


def _explain(error: RuntimeError, timeout_s: float) -> str:
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    size = os.environ["WORLD_SIZE"]
    reason = str(error).strip().splitlines()[0]
    if "EADDRINUSE" in reason:
        return f"{_taken(where)}."
    if "timed out" in reason.lower() or "timeout" in reason.lower():
        return (
            f"Not all of {size} ranks met at {where} within {timeout_s:.0f} s: see that every "
            "host was started, reaches that address and port, and names the same number of "
            "hosts; 'lope doctor --hostfile H' checks that."
        )
    return (
        f"The {size} ranks could not connect to each other ({reason.rstrip('.')}): set "
        "engine.interface to the network interface that joins the hosts; "
        "'lope doctor --hostfile H' tells which one does."
    )


def _taken(where: str) -> str:
    return (
        f"The rendezvous cannot listen on {where}: launch with another --master_port, or end "
        "the run that holds it"
    )
