"""Differences between hosts, found in what each told."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from lope_dist.doctor import compare

HOST: dict[str, Any] = {
    "hostname": "a",
    "own_name": ["10.0.0.1"],
    "names": {"a": ["10.0.0.1"], "b": ["10.0.0.2"]},
    "routes": {"a": "lo", "b": "eth0"},
    "interfaces": {"eth0": "10.0.0.1", "lo": "127.0.0.1"},
    "address": "10.0.0.1",
    "versions": {
        "lope_dist": "0.1.0 (abc)",
        "python": "3.11.7",
        "torch": "2.13.0",
        "deepspeed": "1",
    },
    "devices": 8,
    "free": {"output_dir": {"bytes": 50 << 30, "writable": True}},
    "prints": {"model": "m", "data": "d"},
    "sees_marker": True,
}


@pytest.fixture
def answers() -> dict[str, dict[str, Any]]:
    b = copy.deepcopy(HOST) | {"hostname": "b", "own_name": ["10.0.0.2"]}
    b["routes"] = {"a": "eth0", "b": "lo"}
    return {"a": copy.deepcopy(HOST), "b": b}


def all_of(answers: dict[str, dict[str, Any]], config: Any = None, interface: str | None = None):
    slots = {"a": 8, "b": 8}
    found = [
        *compare.versions(answers),
        *compare.devices(answers, slots),
        *compare.space(answers, 2.0),
        *compare.network(answers, interface),
    ]
    if config is not None:
        found += [*compare.files(answers, config), *compare.output(answers, config)]
    return [(f.check, f.detail, f.fix) for f in found if not f.ok]


def test_equal_hosts_have_no_problem(answers, tiny_config) -> None:
    assert all_of(answers, tiny_config()) == []
    assert all_of(answers, None, "eth0") == []
    assert compare.common_interface(answers) == "eth0"


@pytest.mark.parametrize(
    ("path", "value", "check", "detail", "fix"),
    [
        (("versions", "torch"), "2.12", "torch on b", "2.12, others have 2.13", "torch==2.13"),
        (("versions", "deepspeed"), "not installed", "deepspeed on b", "not installed", "b: pip"),
        (("versions", "lope_dist"), "0.1.0 (xyz)", "lope_dist on b", "(xyz)", "same lope_dist"),
        (("devices",), 4, "devices of b", "8 slots, but 4", "slots=4"),
        (("free", "output_dir", "bytes"), 1 << 30, "output_dir on b", "1.0 GiB free", "min-free"),
        (("free", "output_dir", "writable"), False, "output_dir on b", "not be written", "rights"),
        (("prints", "model"), None, "model", "absent on b", "copy it"),
        (("prints", "data"), "other", "data", "differs between hosts (a: d, b: other)", "copy"),
        (("sees_marker",), False, "output_dir", "b does not see", "share"),
        (("names", "a"), [], "network of b", "does not resolve a", "/etc/hosts of b"),
        (("own_name",), ["127.0.1.1"], "network of b", "resolves to 127.0.1.1", "interface=eth0"),
        (("own_name",), [], "network of b", "resolves to nothing", "interface=eth0"),
    ],
)  # fmt: skip
def test_each_difference_is_told_with_its_fix(
    answers, tiny_config, path: tuple[str, ...], value: Any, check: str, detail: str, fix: str
) -> None:
    place: Any = answers["b"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (problem,) = all_of(answers, tiny_config())
    assert problem[0].startswith(check)
    assert detail in problem[1]
    assert fix in problem[2]


def test_a_named_interface_must_be_there_and_lead_to_the_others(answers) -> None:
    answers["b"]["interfaces"] = {"ib0": "10.1.0.2", "lo": "127.0.0.1"}
    answers["b"]["routes"]["a"] = "ib0"
    (absent,) = all_of(answers, None, "eth0")
    assert absent[0] == "network of b"
    assert "it has ib0, lo" in absent[1]
    assert compare.common_interface(answers) is None
    answers["b"]["interfaces"]["eth0"] = "10.0.0.2"
    (elsewhere,) = all_of(answers, None, "eth0")
    assert "ib0" in elsewhere[1]


def test_a_loopback_name_does_not_matter_once_the_interface_is_named(answers) -> None:
    answers["b"]["own_name"] = ["127.0.1.1"]
    assert all_of(answers, None, "eth0") == []


def test_the_launchers_address_is_told_where_it_is_not_the_interfaces(answers) -> None:
    assert "MASTER_ADDR" not in next(compare.network(answers, "eth0")).detail
    answers["a"]["address"] = "192.168.1.5"
    first, other = compare.network(answers, "eth0")
    assert first.ok
    assert first.detail.endswith("launch with MASTER_ADDR=10.0.0.1")
    assert "MASTER_ADDR" not in other.detail
    assert "MASTER_ADDR" not in next(compare.network(answers, None)).detail


def test_an_optional_package_may_be_absent_everywhere(answers) -> None:
    for host in answers.values():
        host["versions"]["liger-kernel"] = "not installed"
    assert all_of(answers) == []
    answers["b"]["versions"]["liger-kernel"] = "0.8.0"
    (problem,) = all_of(answers)
    assert problem[0].startswith("liger-kernel on ")
    for host in answers.values():
        host["versions"] |= {"liger-kernel": "0.8.0", "torch": "not installed"}
    assert {check for check, _, _ in all_of(answers)} == {"torch on a", "torch on b"}


def test_a_host_without_its_devices_is_found_by_the_others(answers) -> None:
    answers["b"]["devices"] = None
    ((check, detail, fix),) = all_of(answers)
    assert check == "devices of b"
    assert "which a can" in detail
    assert "nvidia-smi" in fix
    answers["a"]["devices"] = None
    assert all_of(answers) == [], "CPU ranks"


def test_a_data_set_of_the_hub_is_not_compared(answers, tiny_config) -> None:
    config = tiny_config()
    for host in answers.values():
        del host["prints"]["data"]
    assert all_of(answers, config) == []
    (data,) = [f for f in compare.files(answers, config) if f.check.startswith("data")]
    assert "on the hub" in data.detail


def test_rows_of_all_hosts_are_the_same() -> None:
    told = {"rows": 9, "bad_rows": 1, "examples": 8, "without_target": 0, "tokens": 70}
    answers = {"a": {"fingerprint": "x", **told}, "b": {"fingerprint": "x", **told}}
    alike = [(True, "rows on a"), (True, "rows on b")]
    assert [(f.ok, f.check) for f in compare.rows(answers, are_files_alike=True)] == alike
    answers["b"]["fingerprint"] = "y"
    assert [(f.ok, f.check) for f in compare.rows(answers, are_files_alike=False)] == alike
    first, *_ = compare.rows(answers, are_files_alike=True)
    assert not first.ok
    assert "differ between hosts" in first.detail
