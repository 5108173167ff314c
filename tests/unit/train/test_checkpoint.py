import errno
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from lope_dist.config.load import dump_config
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import ADAPTER_ROLES, Role
from lope_dist.train.checkpoint import folder as module
from lope_dist.train.checkpoint.descriptions import DESCRIPTION, STATE, STATE_FORMAT
from lope_dist.train.checkpoint.folder import (
    Adapter,
    Checkpoint,
    checkpoint_at,
    checkpoint_in,
    load_optimizer,
    load_weights,
    save_checkpoint,
)
from lope_dist.train.checkpoint.history import (
    STAGE_END,
    checkpoints,
    last_checkpoint,
    newest_checkpoint,
    prune,
)
from lope_dist.train.checkpoint.integrity import MANIFEST

ROLES = {
    "l.lope.A": Role.SHARED_A,
    "l.lope.B.normal_0": Role.NORMAL_B,
    "l.lope.B.poison_0": Role.POISON_B,
    "l.lope.router": Role.ROUTER,
}


FILES = (module.WEIGHTS, DESCRIPTION, module.OPTIMIZER, STATE, module.CONFIG, MANIFEST)


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(3, 4, generator=generator) for name in ROLES}


@pytest.fixture
def save(tiny_config, tmp_path: Path):
    def save(weights, index=1, stage="poison", trained=frozenset(ADAPTER_ROLES), steps=7, at=None):
        adapter = Adapter(
            weights, ROLES, dict.fromkeys(ROLES, torch.Size([3, 4])), trained=set(trained)
        )
        checkpoint = checkpoint_at(tmp_path, index, stage, at)
        optimizer = None if at is None else {"l.lope.A.step": torch.tensor(float(at))}
        save_checkpoint(
            checkpoint, tiny_config(), adapter, state_of(index, stage, steps), optimizer
        )
        return checkpoint

    return save


def state_of(index: int, stage: str, steps: int) -> dict:
    rest = {"data_fingerprint": "", "fingerprints": {}, "router": {}, "progress": {}}
    at = {"stage": stage, "stage_index": index, "steps": steps, "next_step": steps}
    return {"format": STATE_FORMAT, **at, **rest}


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_round_trip(save, weights, tmp_path: Path) -> None:
    saved = save(weights)
    assert files(tmp_path / "checkpoints") == [
        f"1-poison/{name}"
        for name in (
            "MANIFEST.json",
            "adapter.json",
            "adapter.safetensors",
            "run.yaml",
            "state.json",
        )
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
        ("l.lope.B.poison_0", torch.zeros(3, 4), "'l.lope.B.poison_0' .* zero"),
        ("l.lope.A", torch.full((3, 4), float("nan")), "'l.lope.A'"),
        ("l.lope.router", torch.full((3, 4), float("inf")), "not finite"),
        ("l.lope.A", torch.ones(4, 3), r"'l.lope.A'.*\[4, 3\].*\[3, 4\]"),
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
    with pytest.raises(LopeError, match=r"1-poison .*No space left"):
        save(weights)
    assert files(tmp_path) == []


def test_the_last_is_the_furthest_of_the_run(save, weights, tmp_path: Path) -> None:
    for index, stage, at in ((2, "b", 9), (10, "c", 3), (9, "d", None), (10, "c", 20)):
        save(weights, index, stage, at=at)
    assert [c.folder.name for c in checkpoints(tmp_path)] == [
        "10-c-step-000020",
        "10-c-step-000003",
        "9-d",
        "2-b-step-000009",
    ]
    last = save(weights, 10, "c")
    assert last_checkpoint(tmp_path) == last == Checkpoint(tmp_path / "checkpoints/10-c", 10, "c")
    (tmp_path / "checkpoints/99-notes").mkdir()
    (tmp_path / "checkpoints/notes").mkdir()
    assert last_checkpoint(tmp_path) == last


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [flip, cut, Path.unlink], ids=["flipped", "cut", "missing"])
def test_a_harmed_file_is_named_and_its_checkpoint_passed_over(
    save, weights, tmp_path: Path, capsys, name: str, harm
) -> None:
    before = save(weights, at=3)
    harmed = save(weights, at=5)
    harm(harmed.folder / name)
    assert last_checkpoint(tmp_path) == before
    told = capsys.readouterr().err
    assert f"{harmed.folder} is passed over: " in told
    assert name in told
    with pytest.raises(LopeError, match=rf"step-000005 is damaged: .*{name}"):
        newest_checkpoint(tmp_path)


def test_what_is_read_is_checked_again(save, weights) -> None:
    """Another rank may read through another cache than the one that looked."""
    saved = save(weights, at=3)
    for load in (load_weights, load_optimizer):
        load(saved)
    flip(saved.folder / "adapter.safetensors")
    flip(saved.folder / "optimizer.safetensors")
    for load in (load_weights, load_optimizer):
        with pytest.raises(LopeError, match=r"MANIFEST\.json"):
            load(saved)


def test_a_checkpoint_of_another_method_is_foreign(
    save, weights, tmp_path: Path, tiny_config, capsys
) -> None:
    saved = save(weights, at=3)
    (tmp_path / "run.yaml").write_bytes((saved.folder / "run.yaml").read_bytes())
    assert last_checkpoint(tmp_path) == saved
    other = dump_config(tiny_config(seed=5, train__log_every_steps=9))
    (tmp_path / "run.yaml").write_text(other)
    assert last_checkpoint(tmp_path) is None
    assert "(seed: 5 -> 614)" in capsys.readouterr().err


def test_a_pickle_among_the_files_is_not_read(save, weights, tmp_path: Path) -> None:
    saved = save(weights, at=3)
    mark = tmp_path / "executed"

    class Trap:
        def __reduce__(self):
            return Path.touch, (mark,)

    for name in ("adapter.pt", "optimizer.bin", "pytorch_model.bin"):
        (saved.folder / name).write_bytes(pickle.dumps(Trap()))
    assert last_checkpoint(tmp_path) == saved
    load_weights(saved)
    for name in ("adapter.safetensors", "optimizer.safetensors"):
        (saved.folder / name).write_bytes(pickle.dumps(Trap()))
    assert last_checkpoint(tmp_path) is None
    with pytest.raises(LopeError, match=r"MANIFEST\.json"):
        load_weights(saved)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap()))
    assert mark.exists()  # the trap works


def test_the_last_few_are_kept_and_every_stage_end(save, weights, tmp_path: Path) -> None:
    save(weights)
    saved = {at: save(weights, 2, "finetune", at=at) for at in (2, 3, 4, 6, 8)}
    for at in (3, 6):  # the stage had ended there, and was extended
        (saved[at].folder / STAGE_END).touch()
    prune(tmp_path, saved[8], keep_last=2)
    names = ["1-poison", *(f"2-finetune-step-00000{at}" for at in (3, 4, 6, 8))]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == names


def test_one_that_was_passed_over_does_not_push_out_a_whole_one(
    save, weights, tmp_path: Path
) -> None:
    old, torn = save(weights, at=4), save(weights, at=9)
    (torn.folder / "state.json").unlink()
    newest = save(weights, at=6)
    prune(tmp_path, newest, keep_last=1)
    assert not old.folder.exists()
    assert last_checkpoint(tmp_path) == newest


def test_a_broken_checkpoint_of_the_same_stage_is_replaced(save, weights, tmp_path: Path) -> None:
    """It is not whole, so its stage was trained again; that work must not be lost."""
    broken = save(weights).folder
    (broken / "state.json").unlink()
    weights["l.lope.A"] += 1
    saved = save(weights, steps=8)
    assert torch.equal(load_weights(saved)["l.lope.A"], weights["l.lope.A"])
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1-poison"]


@pytest.mark.parametrize("at", [None, 4])
def test_a_name_says_what_its_checkpoint_is(tmp_path: Path, at: int | None) -> None:
    place = checkpoint_at(tmp_path, 3, "a-b.c", at)
    assert checkpoint_in(place.folder) == place


def test_a_whole_checkpoint_is_never_replaced(save, weights) -> None:
    saved = save(weights)
    before = load_weights(saved)["l.lope.A"].clone()
    weights["l.lope.A"] += 1
    with pytest.raises(LopeError, match="1-poison "):
        save(weights)
    assert torch.equal(load_weights(saved)["l.lope.A"], before)
