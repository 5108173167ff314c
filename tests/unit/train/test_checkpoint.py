import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from lope_dist.core.errors import LopeError
from lope_dist.core.roles import ADAPTER_ROLES, Role
from lope_dist.train import checkpoint as module
from lope_dist.train.checkpoint import (
    Checkpoint,
    last_checkpoint,
    load_weights,
    save_checkpoint,
)

ROLES = {
    "l.lope.A": Role.SHARED_A,
    "l.lope.B.normal_0": Role.NORMAL_B,
    "l.lope.B.poison_0": Role.POISON_B,
    "l.lope.router": Role.ROUTER,
}


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(3, 4, generator=generator) for name in ROLES}


@pytest.fixture
def save(tiny_config, tmp_path: Path):
    def save(weights, index=1, stage="poison", trained=frozenset(ADAPTER_ROLES), steps=7):
        shapes = dict.fromkeys(ROLES, torch.Size([3, 4]))
        state = {"steps": steps}
        args = tmp_path, index, stage, tiny_config(), weights, ROLES, set(trained), shapes, state
        return save_checkpoint(*args)

    return save


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_round_trip(save, weights, tmp_path: Path) -> None:
    saved = save(weights)
    assert files(tmp_path / "checkpoints") == [
        f"1-poison/{name}"
        for name in ("adapter.json", "adapter.safetensors", "run.yaml", "state.json")
    ]
    assert last_checkpoint(tmp_path) == saved
    loaded = load_weights(saved)
    assert set(loaded) == set(weights)
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    described = json.loads((saved.folder / "adapter.json").read_text())["tensors"]
    assert {name: entry["role"] for name, entry in described.items()} == ROLES
    assert described["l.lope.A"]["shape"] == [3, 4]
    assert described["l.lope.A"]["norm"] == pytest.approx(weights["l.lope.A"].norm().item())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("l.lope.B.poison_0", torch.zeros(3, 4), "'l.lope.B.poison_0' was trained and is all zero"),
        ("l.lope.A", torch.full((3, 4), float("nan")), "'l.lope.A' holds values that are not"),
        ("l.lope.router", torch.full((3, 4), float("inf")), "not finite"),
        ("l.lope.A", torch.ones(4, 3), r"'l.lope.A' was gathered as \[4, 3\], not \[3, 4\]"),
        ("l.lope.A", torch.ones(0), r"gathered as \[0\]"),
        ("l.lope.router", None, "lacks 'l.lope.router'"),
    ],
)
def test_bad_tensors_are_refused_and_nothing_is_written(
    save, weights, tmp_path: Path, name: str, value: torch.Tensor | None, message: str
) -> None:
    if value is None:
        del weights[name]
    else:
        weights[name] = value
    with pytest.raises(LopeError, match=message):
        save(weights)
    assert files(tmp_path) == []
    assert last_checkpoint(tmp_path) is None


def test_experts_that_no_stage_has_trained_may_be_zero(save, weights) -> None:
    weights["l.lope.B.normal_0"] = torch.zeros(3, 4)
    saved = save(weights, trained={Role.SHARED_A, Role.POISON_B})
    assert torch.equal(load_weights(saved)["l.lope.B.normal_0"], torch.zeros(3, 4))


def test_an_interrupted_write_leaves_no_checkpoint_and_does_not_disturb_the_next(
    save, weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path, state):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            save(weights)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [".1-poison.partial"]
    assert last_checkpoint(tmp_path) is None
    saved = save(weights)
    assert last_checkpoint(tmp_path) == saved
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1-poison"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device"),
    ],
)
def test_a_full_disk_is_told_and_cleaned_up(
    save, weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(tensors, path):
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr(module, "save_file", fail)
    with pytest.raises(LopeError, match=r"1-poison could not be written.*No space left on device"):
        save(weights)
    assert files(tmp_path) == []


def test_the_highest_whole_checkpoint_is_the_last(save, weights, tmp_path: Path) -> None:
    for index in (2, 10, 9):
        save(weights, index, f"s-{index}")
    assert last_checkpoint(tmp_path) == Checkpoint(tmp_path / "checkpoints/10-s-10", 10, "s-10")
    (tmp_path / "checkpoints/10-s-10/adapter.json").unlink()
    (tmp_path / "checkpoints/99-notes").mkdir()
    last = last_checkpoint(tmp_path)
    assert last is not None
    assert (last.index, last.stage) == (9, "s-9")


def test_a_flipped_bit_is_noticed(save, weights) -> None:
    saved = save(weights)
    path = saved.folder / "adapter.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(LopeError, match="is not the file that was written"):
        load_weights(saved)


def test_a_broken_checkpoint_of_the_same_stage_is_replaced(save, weights, tmp_path: Path) -> None:
    """It is not whole, so its stage was trained again; that work must not be lost."""
    broken = save(weights).folder
    (broken / "state.json").unlink()
    weights["l.lope.A"] += 1
    saved = save(weights, steps=8)
    assert torch.equal(load_weights(saved)["l.lope.A"], weights["l.lope.A"])
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1-poison"]


def test_a_whole_checkpoint_is_never_replaced(save, weights) -> None:
    saved = save(weights)
    before = load_weights(saved)["l.lope.A"].clone()
    weights["l.lope.A"] += 1
    with pytest.raises(LopeError, match="1-poison exists already"):
        save(weights)
    assert torch.equal(load_weights(saved)["l.lope.A"], before)
