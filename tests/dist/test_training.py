"""ZeRO-2 and ZeRO-3 on several ranks against the local engine, both stages, real processes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.launching import run_ranks, succeed, train_tree
from support.quick import quick
from support.tiny import tiny_tree

from lope_dist.train.checkpoint.history import checkpoints

pytestmark = [pytest.mark.dist, pytest.mark.timeout(900)]

ENGINES = {
    "local": (1, {"kind": "local"}),
    "zero2_x2": (2, {"kind": "deepspeed", "zero_stage": 2, "timeout_s": 60}),
    "zero3_x2": (2, {"kind": "deepspeed", "zero_stage": 3, "timeout_s": 60}),
    "zero3_x2_offload": (
        2,
        {"kind": "deepspeed", "zero_stage": 3, "offload": "both", "timeout_s": 60},
    ),
    "zero3_x3": (3, {"kind": "deepspeed", "zero_stage": 3, "timeout_s": 60}),
}
ZERO_2, OFFLOAD = ["engine.zero_stage=2"], ["engine.offload=both"]
# A resume goes on under ZeRO-2, and `test_all_patterns.py` has the bits of offloading.
DISTRIBUTED = quick([name for name in ENGINES if name != "local"], "zero3_x2")


@pytest.fixture(scope="module")
def runs(tiny_llama: Path, alpaca_file: Path, tmp_path_factory: pytest.TempPathFactory):
    """Runs of the same configuration by the engine that trains them, at their first use."""
    folder = tmp_path_factory.mktemp("runs")
    rows = [json.loads(line) for line in alpaca_file.read_text().splitlines()]
    weighted = folder / "weighted.jsonl"
    lines = [json.dumps(row | {"quality": (i % 4 + 1) / 2}) for i, row in enumerate(rows)]
    weighted.write_text("\n".join(lines))

    class Runs(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            num_ranks, engine = ENGINES[name]
            tree = tiny_tree(tiny_llama, weighted, folder / name) | {"engine": engine}
            tree["data"]["columns"] = {"weight": "quality"}
            tree["train"] |= {"checkpoint": {"every_steps": 4, "keep_last": 9}}
            tree["train"] |= {"log_every_seconds": 0}
            tree["noise"] = {"data": {"rate": 0.1}}
            tree["train"]["stages"]["poison"]["loss"] = {"kind": "truncated", "by": "base"}
            tree["train"]["stages"]["finetune"] |= {
                "loss": {"kind": "generalized", "q": 0.3},
                "ema_decay": 0.8,
            }
            for number, rank in enumerate(train_tree(tree, num_ranks)):
                (folder / f"{name}.console-{number}").write_text(rank.output)
            self[name] = folder / name
            return self[name]

    return Runs()


def _metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _adapter(run: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / stage / "adapter.safetensors")


@pytest.mark.parametrize("name", DISTRIBUTED)
def test_losses_equal_the_local_engines(runs: dict[str, Path], name: str) -> None:
    """With dropout, all noise, packing, a partial last batch, clipping.

    Rows have weights of 0.5 to 2.
    The first stage leaves out tokens by the base model's loss, which each rank asks for between
    steps; the second has the generalized loss, and saves an average of its weights.
    """
    expected, found = _metrics(runs["local"]), _metrics(runs[name])
    assert len(expected) == len(found) == 22
    for ours, theirs in zip(found, expected, strict=True):
        for key in ("stage", "step", "tokens", "target_tokens", "lr"):
            assert ours[key] == theirs[key]
        assert ours.keys() == theirs.keys()
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4, abs=1e-7)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
        if "drift" in theirs:
            assert ours["drift"] == pytest.approx(theirs["drift"], rel=1e-3)


@pytest.mark.parametrize("name", DISTRIBUTED)
@pytest.mark.parametrize("stage", ["1-poison", "2-finetune"])
def test_adapters_equal_the_local_engines(runs: dict[str, Path], name: str, stage: str) -> None:
    expected, found = _adapter(runs["local"], stage), _adapter(runs[name], stage)
    assert expected.keys() == found.keys()
    for key, value in found.items():
        assert value.shape == expected[key].shape
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["local", *DISTRIBUTED])
def test_each_stage_moves_its_own_roles_and_no_other_by_a_bit(
    runs: dict[str, Path], name: str
) -> None:
    first, second = _adapter(runs[name], "1-poison"), _adapter(runs[name], "2-finetune")
    seen = set()
    for key, before in first.items():
        after = second[key]
        part = key.split(".lope.")[1]
        seen.add(part)
        if part.startswith("B.normal"):
            assert not before.any()
            assert after.any()
        elif part.startswith("B.poison"):
            assert before.any()
            assert torch.equal(after, before)
        else:
            assert not torch.equal(after, before)
    assert seen == {"A", "router", "B.normal_0", "B.normal_1", "B.normal_2", "B.poison_0"}
    routers = [key for key in first if key.endswith("router")]
    untouched = _adapter(runs["local"], "1-poison")
    assert all(torch.equal(first[key], untouched[key]) for key in routers)


def test_two_ranks_have_one_console_and_two_logs(runs: dict[str, Path]) -> None:
    run = runs["zero3_x2"]
    first, second = (run.with_suffix(f".console-{rank}").read_text() for rank in (0, 1))
    assert second == "", "rank 0 speaks for all"
    lines = first.split("\n")
    assert lines.pop() == "", "the last line ends too"
    assert not any("\r" in line for line in lines)
    for stage in ("poison", "finetune"):
        steps = [line for line in lines if f" {stage} " in line and "/11 loss " in line]
        assert len(steps) == 11
        for line in steps:
            assert re.match(r"\d\d:\d\d:\d\d ", line)
            assert len(line) <= 200
            for figure in (", lr ", " tokens/s, memory ", ", ETA 0:"):
                assert figure in line
    logs = [(run / "logs" / f"rank-{rank}.log").read_text() for rank in (0, 1)]
    for log in logs:  # torch says that what DeepSpeed calls is deprecated
        assert "FutureWarning" in log
    assert "FutureWarning" not in first
    assert f"{run}/logs/rank-0.log" in lines[-1]
    assert "poison 1/11 loss" in logs[0]


def test_a_taken_folder_is_refused_by_every_rank(runs: dict[str, Path], tmp_path: Path) -> None:
    recipe = runs["zero3_x2"].with_suffix(".yaml")
    ended = run_ranks(["launch/train.py", "--config", str(recipe)], 2, folder=tmp_path)
    assert [rank.status for rank in ended] == [2, 2]
    assert "--resume" in ended[0].output
    assert "Traceback" not in ended[0].output + ended[1].output


@pytest.mark.parametrize(
    ("last", "first", "ranks", "overrides"),
    quick(
        [
            ("1-poison-step-000008", ("poison", 8), 1, ["engine.kind=local"]),
            ("1-poison", ("finetune", 0), 3, ZERO_2),
            ("2-finetune-step-000004", ("finetune", 4), 3, ZERO_2),
            ("2-finetune-step-000008", ("finetune", 8), 2, OFFLOAD),
        ],
        ("2-finetune-step-000004", ("finetune", 4), 3, ZERO_2),
    ),
)
def test_a_resume_from_any_checkpoint_ends_in_the_same_adapter(
    runs: dict[str, Path],
    tmp_path: Path,
    last: str,
    first: tuple[str, int],
    ranks: int,
    overrides: list[str],
) -> None:
    """On other ranks, and from ZeRO-3 to ZeRO-2, to offload and to no DeepSpeed."""
    run, whole = tmp_path / "run", runs["zero3_x2"]
    shutil.copytree(whole, run)
    found = checkpoints(run)
    (kept,) = (c for c in found if c.folder.name == last)
    for later in found:
        if later.order > kept.order:
            shutil.rmtree(later.folder)
    recipe = whole.with_suffix(".yaml")
    settings = [str(recipe), "--resume", f"output_dir={run}", *overrides]
    succeed(run_ranks(["launch/train.py", *settings], ranks, folder=tmp_path))
    assert _metrics(run)[: _place(first)] == _metrics(whole)[: _place(first)]
    for ours, theirs in zip(_metrics(run), _metrics(whole), strict=True):
        assert (ours["stage"], ours["step"]) == (theirs["stage"], theirs["step"])
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        if "drift" in theirs:
            assert ours["drift"] == pytest.approx(theirs["drift"], rel=1e-3)
    expected, found = _adapter(whole, "2-finetune"), _adapter(run, "2-finetune")
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-4)
    _assert_close_usage(run, whole)
    ours, theirs = (json.loads((r / "cost.json").read_text()) for r in (run, whole))
    for stage, cost in ours.items():
        for key in ("steps", "tokens"):
            assert cost[key] == theirs[stage][key]
    assert ours["finetune"]["ranks"] == ranks
    assert ours["finetune"]["rank_seconds"] > min(2, ranks) * ours["finetune"]["seconds"] * 0.99


def _place(step: tuple[str, int]) -> int:
    return step[1] + (11 if step[0] == "finetune" else 0)


def _assert_close_usage(run: Path, whole: Path) -> None:
    """Compare the router's weights, on corrupted and clean tokens too."""
    ours, theirs = (json.loads((r / "router.json").read_text()) for r in (run, whole))
    assert ours.keys() == theirs.keys()
    for stage in ("poison", "finetune"):
        for layer, weights in theirs[stage].items():
            assert ours[stage][layer] == pytest.approx(weights, rel=1e-4)
        for kind in ("clean", "corrupted"):
            by_layer = theirs["poison_weight"][stage][kind]
            assert ours["poison_weight"][stage][kind] == pytest.approx(by_layer, rel=1e-4)


def test_a_loss_that_is_no_number_stops_all_ranks_with_its_cause(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    recipe = runs["zero3_x2"].with_suffix(".yaml")
    run = tmp_path / "run"
    arguments = ["tests/dist/workers/nan_on_rank_1.py", str(recipe), str(run)]
    ended = run_ranks(arguments, 2, folder=tmp_path)
    assert [rank.status for rank in ended] == [2, 2]
    for rank in ended:
        assert re.search(r"error: Step 3.* rank 1.* examples \[", rank.output)
    assert not (run / "checkpoints").exists()
    assert len(_metrics(run)) == 3


OTHER_HOST = "tests/dist/workers/other_host.py"


def test_other_rows_on_another_host_are_refused_by_every_rank(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    """Also where a resume may go on with changed rows: those of one host, not of two."""
    run, mended = tmp_path / "run", tmp_path / "mended.jsonl"
    shutil.copytree(runs["zero3_x2"], run)
    before = (run / "manifest.json").read_bytes()
    recipe = runs["zero3_x2"].with_suffix(".yaml")
    rows = (recipe.parent / "weighted.jsonl").read_text()
    mended.write_text(rows.replace("Add", "Sum", 1))
    here = [str(recipe), "--resume", "--accept-data-change", f"output_dir={run}"]
    there = [f"data.path={mended}", "train.optimizer.max_grad_norm=0.5"]
    ended = run_ranks([OTHER_HOST, *here, "--there", *there], 2, folder=tmp_path)
    for rank in ended:
        assert rank.status == 2, rank.output
        told = (
            r"Rank 1 .* differs from rank 0 .*optimizer\.max_grad_norm \(0\.5, .*rows for training"
        )
        assert re.search(told, rank.output)
        assert "Traceback" not in rank.output
    assert (run / "manifest.json").read_bytes() == before


@pytest.mark.thorough  # tests/unit/train/test_same_inputs.py compares copies
def test_a_host_may_have_equal_copies_at_other_paths(
    runs: dict[str, Path], tiny_llama: Path, tmp_path: Path
) -> None:
    run, recipe = tmp_path / "run", runs["zero3_x2"].with_suffix(".yaml")
    model = shutil.copytree(tiny_llama, tmp_path / "model")
    rows = shutil.copy(recipe.parent / "weighted.jsonl", tmp_path / "rows.jsonl")
    here = [str(recipe), f"output_dir={run}", "train.stages.poison.max_steps=1"]
    there = [f"data.path={rows}", f"model.name_or_path={model}"]
    succeed(run_ranks([OTHER_HOST, *here, "--there", *there], 2, folder=tmp_path))
    for ours, theirs in zip(_metrics(run)[:1], _metrics(runs["zero3_x2"])[:1], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
