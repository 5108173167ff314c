"""What is read is what was written: caches that went bad are made anew, corpora refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.core.sealed_cache import cache_damage, seal_cache
from lope_dist.corpus.store import StoreWriter, open_store

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


def test_a_store_whose_disk_is_full_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LOPE_DATA_CACHE", str(tmp_path))

    def fails(writer: StoreWriter) -> dict:
        monkeypatch.setattr(writer, "close", lambda: (_ for _ in ()).throw(OSError(28, "full")))
        raise OSError(28, "No space left on device")

    with pytest.raises(LopeError, match="set LOPE_DATA_CACHE to a folder with room"):
        open_store("key", fails)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("harm", ["flip", "remove"])
def test_a_converted_model_that_went_bad_is_seen(harm: str, tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes(b"content of " + name.encode())
    seal_cache(tmp_path)
    assert cache_damage(tmp_path) is None
    if harm == "flip":
        (tmp_path / "model.safetensors").write_bytes(b"Content of model.safetensors")
    else:
        (tmp_path / "model.safetensors").unlink()
    assert "model.safetensors" in str(cache_damage(tmp_path))
