"""What a host tells of itself is true, and its fingerprints notice what matters."""

from __future__ import annotations

import json
import socket
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.core.fingerprint import fingerprint
from lope_dist.doctor.probe import probe


def test_a_host_tells_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    question = {
        "hosts": ["localhost", "no-such-host"],
        "folders": {"output_dir": str(tmp_path / "not" / "yet")},
        "files": {"data": [str(tmp_path / "rows.jsonl")], "model": [str(tmp_path / "absent")]},
        "marker": str(tmp_path / "marker"),
    }
    told = probe(question)
    assert json.loads(json.dumps(told)) == told
    assert told["hostname"] == socket.gethostname()
    assert told["names"]["no-such-host"] == []
    assert told["routes"]["localhost"] == "lo"
    assert told["versions"]["torch"] == version("torch")
    assert told["free"]["output_dir"]["writable"]
    assert told["prints"]["data"]
    assert told["prints"]["model"] is None
    assert told["sees_marker"] is False


def test_a_fingerprint_is_of_content_and_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    first = fingerprint([tmp_path / "a"])
    assert first == fingerprint([tmp_path / "a"])
    (tmp_path / "a").write_text("two")
    assert fingerprint([tmp_path / "a"]) != first
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b").write_text("one")
    assert fingerprint([tmp_path / "b"]) != first
    assert fingerprint([tmp_path]) == fingerprint([tmp_path / "b"])
    assert fingerprint([tmp_path / "absent"]) is None


def test_a_large_file_is_sampled_at_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    size = 40 << 20
    content = bytearray(size)
    path.write_bytes(content)
    first = fingerprint([path])
    for place in (0, size - 1):
        content[place] = 1
        path.write_bytes(content)
        assert fingerprint([path]) != first
        content[place] = 0
    path.write_bytes(content[:-1])
    assert fingerprint([path]) != first


def test_a_bad_hostfile_ends_the_command_with_status_1(tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("node1 slots=8\nnode1 slots=8\n")
    result = CliRunner().invoke(app, ["doctor", "--hostfile", str(hostfile)])
    assert result.exit_code == 1
    assert "✗" in result.output
    assert "fix: give each host one line" in result.output
    result = CliRunner().invoke(app, ["doctor", "--hostfile", str(hostfile), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.output)["ok"] is False


@pytest.mark.parametrize(("num_hosts", "is_there", "told"), [(2, 0, "✗"), (2, 1, "✓"), (1, 0, "")])
def test_pdsh_is_needed_for_several_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_hosts: int, is_there: int, told: str
) -> None:
    (tmp_path / "hosts").write_text("a.invalid slots=8\nb.invalid slots=8\n"[: 18 * num_hosts])
    if is_there:
        (tmp_path / "pdsh").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(app, ["doctor", "--hostfile", str(tmp_path / "hosts")])
    assert result.exit_code == 1
    assert [line[0] for line in result.output.splitlines() if " pdsh here" in line] == [*told]
    assert ("fix: apt install pdsh" in result.output) is (told == "✗")
