"""The interface that ranks are told to use: found, agreed on, listened on alone."""

from __future__ import annotations

import os
import re
import socket

import pytest

from lope_dist.config.engine import EngineConfig
from lope_dist.core.errors import LopeError, PeerLost
from lope_dist.engine import rendezvous
from lope_dist.engine.rendezvous import (
    _listen,
    _use,
    address_of,
    no_connection,
    open_store,
)


def test_an_interface_has_its_address() -> None:
    assert address_of("lo") == "127.0.0.1"


def test_one_that_is_absent_is_told_with_those_there_are() -> None:
    with pytest.raises(LopeError, match=r"'lo0' .* lo \(127\.0\.0\.1\)"):
        address_of("lo0")


def test_one_rank_without_deepspeed_joins_no_hosts() -> None:
    with pytest.raises(ValueError, match=r"engine\.kind=deepspeed.*engine\.interface=null"):
        EngineConfig(kind="local", interface="lo")
    assert EngineConfig(interface="lo").interface == "lo"


@pytest.mark.parametrize(
    ("backend", "variable", "value"),
    [("gloo", "GLOO_SOCKET_IFNAME", "lo"), ("nccl", "NCCL_SOCKET_IFNAME", "=lo")],
)
def test_the_backend_is_told_and_a_contradiction_is_refused(
    monkeypatch: pytest.MonkeyPatch, backend: str, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, "lo")  # so that it is restored afterwards
    monkeypatch.delenv(variable)
    assert _use("lo", backend) == "127.0.0.1"
    assert os.environ[variable] == value
    assert _use("lo", backend) == "127.0.0.1"
    monkeypatch.setenv(variable, "eth9")
    with pytest.raises(LopeError, match=rf"engine\.interface = 'lo'.*{variable}=eth9"):
        _use("lo", backend)


def test_the_rendezvous_listens_on_its_address_alone() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listener = _listen("127.0.0.1", "localhost", port, "lo")
    try:
        assert listener.getsockname() == ("127.0.0.1", port)
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", port)):
            pass
        with pytest.raises(LopeError, match=rf"127\.0\.0\.1:{port}.*set MASTER_PORT "):
            _listen("127.0.0.1", "localhost", port, "lo")
    finally:
        listener.close()


def test_on_one_host_the_launchers_address_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    monkeypatch.setattr(rendezvous, "address_of", lambda interface: "10.1.2.3")
    store = open_store("gloo", 20, "eth0")
    store.set("key", "value")
    assert store.get("key") == b"value"
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", port)):
        pass


def test_a_master_address_of_another_network_is_told() -> None:
    with pytest.raises(LopeError, match=re.escape("set MASTER_ADDR=127.0.0.1 ")):
        _listen("127.0.0.1", "10.1.2.3", 29500, "lo")
    with pytest.raises(LopeError, match=r"'no-such-host\.invalid'"):
        _listen("127.0.0.1", "no-such-host.invalid", 29500, "lo")


def test_why_ranks_did_not_connect_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    told = no_connection(RuntimeError("[enforce fail] Connection refused 127.0.0.1"))
    assert told.startswith("The 4 ranks could not connect to each other")
    assert "set engine.interface to the network" in told


def test_a_rendezvous_that_is_taken_or_silent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port), ("RANK", 1)):
            monkeypatch.setenv(name, str(value))
        with pytest.raises(PeerLost, match=rf"^Rank 1 .*{port}, .* 1"):
            open_store("gloo", 1.0, None)
        holder.listen()
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(LopeError, match="set MASTER_PORT "):
            open_store("gloo", 1.0, None)
