"""What becomes of side files that are damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError, NewerFormat
from lope_dist.core.files import open_nofollow
from lope_dist.core.runlog import append_line, read_json
from lope_dist.core.side_files import MANIFEST, METRICS, RESULTS

DAMAGE = (b"", b"{", b"[]", b"{}", b"\0" * 4096, b'{"rows": 1}', b'{"starts": [{}]}', b"\xff\xfe{}",
          b'{"rows": [{"name": "x", "tasks": {"t": 1}}]}', b"[" * 100_000, b"1" * 5000,
          b'{"rows": NaN}', b"null")  # fmt: skip
STEP = {"stage": "poison", "step": 3, "loss": 1.5, "tokens": 7, "time": 1.0}


@pytest.mark.parametrize("content", DAMAGE)
@pytest.mark.parametrize("file", [MANIFEST, RESULTS])
def test_a_damaged_file_is_told_and_put_aside(file, content, tmp_path: Path, capsys) -> None:
    path = tmp_path / file.name
    path.write_bytes(content)
    assert file.read(tmp_path) is None
    assert f"{path} is damaged (" in capsys.readouterr().err
    assert path.read_bytes() == content, "a reader changes nothing"
    assert file.recover(tmp_path) is None
    told = capsys.readouterr().err
    assert f"{file.name}.damaged-1" in told
    assert told.count("\n") == 1
    assert not path.exists()
    assert (tmp_path / f"{file.name}.damaged-1").read_bytes() == content
    path.write_bytes(content)
    file.recover(tmp_path)
    assert (tmp_path / f"{file.name}.damaged-2").read_bytes() == content


def test_a_whole_or_absent_file_is_not_spoken_of(tmp_path: Path, capsys) -> None:
    table = {"rows": [{"name": "base", "tasks": {"demo": {"acc": 0.5}}, "more": 1}], "extra": []}
    assert RESULTS.read(tmp_path) is None
    (tmp_path / "results.json").write_text(json.dumps(table))
    assert RESULTS.read(tmp_path) == table
    assert RESULTS.recover(tmp_path) == table
    assert list(METRICS.read(tmp_path)) == METRICS.recover(tmp_path) == []
    assert capsys.readouterr().err == ""


def test_a_manifest_of_a_newer_version_is_refused_and_left(tmp_path: Path, capsys) -> None:
    path = tmp_path / MANIFEST.name
    for known in ({"starts": []}, {"format": 1, "starts": []}):
        path.write_text(json.dumps(known))
        MANIFEST.refuse_newer(tmp_path)
        assert MANIFEST.read(tmp_path) == known
    path.write_text('{"format": 2, "begun": []}')
    for look in (MANIFEST.refuse_newer, MANIFEST.read, MANIFEST.recover):
        with pytest.raises(NewerFormat, match=rf"{path} .*format 2.* up to 1"):
            look(tmp_path)
    assert path.read_text() == '{"format": 2, "begun": []}'
    for none in ("2", -1, [1], None):
        path.write_text(json.dumps({"format": none, "starts": []}))
        MANIFEST.refuse_newer(tmp_path)
        assert MANIFEST.read(tmp_path) is None
        assert str(path) in capsys.readouterr().err


def test_of_a_log_the_whole_lines_are_kept(tmp_path: Path, capsys) -> None:
    good = [json.dumps(STEP | {"step": step}).encode() for step in range(4)]
    bad = [b"\0" * 512, b"{}", b'{"stage": "poison"', b"\xff", b"[1]",
           good[0].replace(b"1.5", b"NaN"), good[0].replace(b"7", b'"7"')]  # fmt: skip
    content = b"\n".join([good[0], *bad[:3], good[1], good[2], *bad[3:], good[3], b'{"torn": '])
    path = tmp_path / METRICS.name
    path.write_bytes(content)
    assert [line["step"] for line in METRICS.read(tmp_path)] == [0, 1, 2, 3]
    assert f"{path}: 7 lines (2, 3, 4, 7, 8, ...) are damaged" in capsys.readouterr().err
    assert [line["step"] for line in METRICS.recover(tmp_path)] == [0, 1, 2, 3]
    assert (tmp_path / "metrics.jsonl.damaged-1").read_bytes() == content
    assert "metrics.jsonl.damaged-1" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[" * 100_000, "1" * 5000, '{"a": NaN}', "{"])
def test_what_is_no_json_is_told_in_a_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(LopeError, match=r"x\.json .*JSON"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("target", ["precious", "absent"])
def test_no_file_is_written_through_a_link(target: str, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / target)
    with pytest.raises(LopeError, match=r"metrics\.jsonl .*link"):
        append_line(tmp_path / "metrics.jsonl", STEP)
    with pytest.raises(LopeError, match="is a link"):
        open_nofollow(tmp_path / "metrics.jsonl", "a+")
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "absent").exists()
