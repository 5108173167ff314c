"""What is read is what was written: caches that went bad are made anew, corpora refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lope_dist.core import blocks
from lope_dist.core.errors import EXIT_PEER_LOST, LopeError
from lope_dist.core.sealed_cache import cache_damage, seal_cache
from lope_dist.corpus.built.build import build
from lope_dist.corpus.built.corpus import BuiltCorpus, verify
from lope_dist.corpus.examples.store import StoreWriter, open_store

LINES = [b'[["user", "ask %d", ""]]\n' % i for i in range(500)]


def fill(writer: StoreWriter) -> dict:
    for line in LINES:
        writer.add(line)
    return {"fingerprint": "x"}


@pytest.mark.parametrize(
    "name", ["examples.jsonl", "offsets.u64", "index.json", "index.json.sha256"]
)
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "remove"])
def test_a_store_that_went_bad_is_told_and_made_anew(
    name: str, harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("LOPE_DATA_CACHE", str(tmp_path))
    open_store("key", fill)
    assert capsys.readouterr().err == ""
    path = tmp_path / "key" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes({"flip": content, "cut": content[: len(content) // 2], "empty": b""}[harm])
    store = open_store("key", fill)
    assert list(store.lines(0, len(store))) == LINES
    told = capsys.readouterr().err
    assert told.startswith(f"The examples cached in {tmp_path / 'key'} are damaged (")
    assert told.count("\n") == 1
    open_store("key", fill)
    assert capsys.readouterr().err == ""


def test_a_large_store_that_goes_bad_is_told_where_it_is_read_and_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("LOPE_DATA_CACHE", str(tmp_path))
    monkeypatch.setattr(blocks, "BLOCK", 100)
    monkeypatch.setattr(blocks, "_WHOLE_BLOCKS", 4)
    open_store("key", fill)
    path = tmp_path / "key" / "examples.jsonl"
    content = bytearray(path.read_bytes())
    content[1234] ^= 1
    path.write_bytes(content)
    store = open_store("key", fill)
    assert store.line(0) == LINES[0]
    assert capsys.readouterr().err == "", "the block is not among those that opening looks at"
    told = r"examples.jsonl is not what was written in block 13 of \d+, bytes 1200 to 1300"
    with pytest.raises(LopeError, match=told) as caught:
        list(store.lines(0, len(store)))
    assert caught.value.status == EXIT_PEER_LOST, "another try makes it anew"
    again = open_store("key", fill)
    assert list(again.lines(0, len(again))) == LINES
    assert "read anew" in capsys.readouterr().err


def _rows_or_error(folder: Path, ids: list[int]) -> tuple[list | None, str | None]:
    try:
        return BuiltCorpus(folder).rows("clean", ids), None
    except LopeError as error:
        return None, str(error)


@pytest.mark.parametrize("whole", [64, 2])
def test_a_shard_that_went_bad_is_refused_by_block(
    whole: int, make_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 1 << 10)
    monkeypatch.setattr(blocks, "_WHOLE_BLOCKS", whole)
    monkeypatch.setattr(blocks, "_SAMPLES", 2)
    folder = tmp_path / "corpus"
    build(make_recipe(), folder, progress=False)
    path = folder / "shards" / "clean-000001.arrow"
    ids = list(range(5, 10))
    expected = BuiltCorpus(folder).rows("clean", ids)
    content = path.read_bytes()
    for number in range(len(content) >> 10):
        harmed = bytearray(content)
        harmed[(number << 10) + 512] ^= 1
        path.write_bytes(harmed)
        rows, told = _rows_or_error(folder, ids)
        assert (rows == expected and whole == 2) or told is not None, "a small file is hashed whole"
        if told is not None:
            assert f"{path} is not what was built" in told
            assert f"block {number + 1} of" in told
        with pytest.raises(LopeError, match=rf"block {number + 1} of \d+, of 1024 bytes each"):
            verify(folder, progress=False)


def test_a_store_whose_disk_is_full_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LOPE_DATA_CACHE", str(tmp_path))

    def fails(writer: StoreWriter) -> dict:
        monkeypatch.setattr(writer, "close", lambda: (_ for _ in ()).throw(OSError(28, "full")))
        raise OSError(28, "No space left on device")

    with pytest.raises(LopeError, match="LOPE_DATA_CACHE"):
        open_store("key", fails)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


MODEL, HASHES = "model.safetensors", "hashes.json"


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda f: (f / MODEL).write_bytes(b"Content of model.safetensors"), MODEL),
        (lambda f: (f / MODEL).unlink(), f"{MODEL} is missing"),
        (lambda f: (f / "pytorch_model.bin").write_bytes(b""), "pytorch_model.bin was not written"),
        (lambda f: (f / HASHES).unlink(), f"{HASHES} does not exist"),
        (lambda f: (f / HASHES).write_text("{}"), "was not written there"),
        (lambda f: (f / HASHES).write_text("[]"), "holds no hashes"),
        (lambda f: (f / HASHES).write_text('{"model.safetensors": 7}'), "was not written there"),
        (lambda f: (f / HASHES).write_bytes(bytes(64)), "is not readable JSON"),
    ],
)
def test_a_converted_model_that_went_bad_is_seen(harm, told: str, tmp_path: Path) -> None:
    for name in (MODEL, "config.json"):
        (tmp_path / name).write_bytes(b"content of " + name.encode())
    seal_cache(tmp_path)
    assert cache_damage(tmp_path) is None
    harm(tmp_path)
    assert told in str(cache_damage(tmp_path))
