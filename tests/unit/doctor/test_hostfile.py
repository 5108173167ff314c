"""Every way to write a hostfile wrong is told with its line and its fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from lope_dist.doctor.hostfile import read_hostfile

EXAMPLE = Path(__file__).resolve().parents[3] / "launch" / "hosts.example"


def test_a_good_one_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# ours\n\nnode2 slots=4\n10.0.0.1   slots=8  \nfe80::1 slots=1\n")
    hosts, (finding,) = read_hostfile(path)
    assert list(hosts.items()) == [("node2", 4), ("10.0.0.1", 8), ("fe80::1", 1)]
    assert finding.ok
    assert finding.detail == "3 hosts, 13 ranks"


def test_the_example_is_good_and_deepspeed_reads_it_alike() -> None:
    from deepspeed.launcher.runner import fetch_hostfile

    hosts, (finding,) = read_hostfile(EXAMPLE)
    assert finding.ok
    assert dict(fetch_hostfile(str(EXAMPLE))) == hosts


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ("node2", "not of the form"),
        ("node2 slots = 4", "not of the form"),
        ("node2 slots=four", "not of the form"),
        ("node2 slots=4 # fast", "a comment behind a host"),
        ("node2 slots=0", "no slots"),
        ("node1 slots=4", "the host of line 1 again"),
        ("me@node2 slots=4", "no host's name"),
        ("-oProxyCommand=x slots=4", "no host's name"),
        ("node2;reboot slots=4", "no host's name"),
    ],
)
def test_a_bad_line_is_told(tmp_path: Path, line: str, detail: str) -> None:
    path = tmp_path / "hosts"
    path.write_text(f"node1 slots=8\n{line}\n")
    _, (finding,) = read_hostfile(path)
    assert not finding.ok
    assert finding.check.endswith("line 2")
    assert finding.detail.startswith(detail)
    assert finding.fix


def test_what_is_no_hostfile_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# none\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, detail in (("empty", "names no host"), ("binary", "not text"), ("absent", "No such")):
        hosts, (finding,) = read_hostfile(tmp_path / name)
        assert (hosts, finding.ok) == ({}, False)
        assert detail in finding.detail
