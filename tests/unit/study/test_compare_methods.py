"""`lope compare`: the same steps for all, a search, seeds, and one recommendation."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.tiny import tiny_tree

from lope_dist.cli import main
from lope_dist.config.load import dump_config, validate_config
from lope_dist.config.schema import RunConfig
from lope_dist.core import bars
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role
from lope_dist.study import compare_methods as module
from lope_dist.study.clock import Clock, plan
from lope_dist.study.compare_methods import CompareRequest, compare_methods
from lope_dist.study.method_studies import MethodStudies
from lope_dist.study.methods import METHODS
from lope_dist.study.recommend import recommend
from lope_dist.study.sample import draw_sample


@pytest.fixture
def config(tiny_llama: Path, alpaca_file: Path, tmp_path: Path) -> RunConfig:
    tree = tiny_tree(tiny_llama, alpaca_file, tmp_path / "run")
    tree["data"]["validation"] = {"share": 0.2}
    tree["train"]["keep_best"] = "masked"
    tree["train"]["stages"]["poison"]["max_steps"] = 2
    return validate_config(tree, "test")


def rows_of(folder: Path, name: str) -> list[str]:
    return (folder / "rows" / f"{name}.jsonl").read_text().splitlines()


def test_the_sample_is_split_into_rows_that_differ(config, tmp_path):
    sample = draw_sample(config, 1000, tmp_path)
    parts = [rows_of(tmp_path, name) for name in ("train", "choose_on", "held_out")]
    assert sample.num_trained == len(parts[0])
    assert len(parts[0]) % config.train.global_batch == 0
    assert len({row for part in parts for row in part}) == sum(map(len, parts))
    assert draw_sample(config, 1000, tmp_path) == sample  # again: the same rows
    with pytest.raises(LopeError, match=r"train\.jsonl .* --out"):
        draw_sample(config.model_copy(update={"seed": 9}), 1000, tmp_path)
    with pytest.raises(LopeError, match=r"10 different rows .* --rows"):
        draw_sample(config, 10, tmp_path / "other")


def test_bad_rows_are_not_drawn_and_too_many_are_refused(config, alpaca_file, tmp_path):
    path = tmp_path / "rows.jsonl"
    bad = [json.dumps({"instruction": f"Bad {n}", "output": ""}) for n in range(4)]
    path.write_text(alpaca_file.read_text() + "\n".join(bad) + "\n")
    tree = config.model_dump(mode="json")
    tree["data"] |= {"path": str(path), "max_bad_rows": 0.05, "max_length": 512}
    draw_sample(validate_config(tree, "test"), 1000, tmp_path)
    drawn = [row for name in ("train", "choose_on", "held_out") for row in rows_of(tmp_path, name)]
    assert len(drawn) == 83
    assert not [row for row in drawn if "Bad" in row]
    tree["data"]["max_bad_rows"] = 0.0
    with pytest.raises(LopeError, match=r"rows\.jsonl, line 84: "):
        draw_sample(validate_config(tree, "test"), 1000, tmp_path / "other")


def test_what_json_cannot_hold_is_null_in_the_sample(config, alpaca_file, tmp_path, capsys):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [json.loads(line) for line in alpaca_file.read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {"score": float("nan") if number % 2 else 0.5}
        row |= {"image": {"bytes": b"\xff", "path": f"{number}.png"}}
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path)
    tree = config.model_dump(mode="json")
    tree["data"]["path"] = str(path)
    config = validate_config(tree, "test")
    sample = draw_sample(config, 1000, tmp_path)
    told = capsys.readouterr().err
    assert [told.count(f"the column '{name}'") for name in ("image", "score", "output")] == [
        1,
        1,
        0,
    ]
    drawn = [json.loads(row) for name in ("train", "held_out") for row in rows_of(tmp_path, name)]
    assert {row["score"] for row in drawn} == {None, 0.5}
    assert all(row["image"]["bytes"] is None and row["image"]["path"] for row in drawn)
    assert all(row["output"] for row in drawn)
    assert draw_sample(config, 1000, tmp_path) == sample  # again: the same rows


def test_rows_to_judge_on_come_from_the_validation_file(config, tmp_path):
    clean = tmp_path / "clean.jsonl"
    lines = [json.dumps({"instruction": f"Clean {n}", "output": "yes"}) for n in range(30)]
    clean.write_text("\n".join(lines))
    tree = config.model_dump(mode="json")
    tree["data"]["validation"] = {"path": str(clean)}
    sample = draw_sample(validate_config(tree, "test"), 1000, tmp_path)
    assert not sample.from_training_rows
    held_out = rows_of(tmp_path, "held_out")
    assert len(held_out) == 15
    assert all("Clean" in row for row in held_out)


@pytest.mark.parametrize(
    ("key", "looks"),
    [
        ("format", {"format": "prompt"}),
        ("columns", {"columns": {"instruction": "question", "output": "answer"}}),
        ("roles", {"roles": {"narrator": "user"}}),
        ("message_keys", {"message_keys": {"role": "speaker"}}),
    ],
)
def test_held_out_rows_of_another_form_are_refused(config, alpaca_file, tmp_path, key, looks):
    tree = config.model_dump(mode="json")
    tree["data"]["validation"] = {"path": str(alpaca_file), **looks}
    with pytest.raises(LopeError, match=rf"data\.validation\.{key} = .*data\.{key} = "):
        draw_sample(validate_config(tree, "test"), 1000, tmp_path)
    assert not (tmp_path / "rows").exists()


def test_what_is_no_part_of_lope_reaches_every_method(config, tmp_path):
    tree = config.model_dump(mode="json")
    settings = {
        "loss": {"kind": "truncated", "share": 0.3, "by": "base"},
        "ema_decay": 0.9,
        "weight_decay": 0.1,
        "groups": {"normal_b": {"lr": 0.5}, "router": {"lr": 0.02, "weight_decay": 0.0}},
    }
    tree["train"]["stages"]["finetune"] |= settings
    tree["train"]["stages"]["poison"]["loss"] = {"kind": "label_smoothing"}
    config = validate_config(tree, "test")
    studies = MethodStudies(config, draw_sample(config, 1000, tmp_path), tmp_path)
    studies.write_recipe()
    stages = {c.group.variant: c.config.train.stages for c in studies.search([3.0]).cells}
    lope = stages["lope-0.03"]["finetune"]
    for name in ("lora-0.03", "hydralora-0.03"):
        (stage,) = stages[name].values()
        for key in ("lr", "weight_decay", "schedule", "warmup_ratio", "loss", "ema_decay"):
            assert getattr(stage, key) == getattr(lope, key), key
        assert stage.groups == {r: g for r, g in lope.groups.items() if r in stage.trainable}
    assert stages["hydralora-0.03"]["finetune"].groups[Role.ROUTER].lr == pytest.approx(0.06)
    assert Role.ROUTER not in stages["lora-0.03"]["finetune"].groups


def test_all_methods_take_the_same_steps_and_lope_keeps_its_stages(config, tmp_path):
    sample = draw_sample(config, 1000, tmp_path)
    studies = MethodStudies(config, sample, tmp_path)
    studies.write_recipe()
    study = studies.search([1.0, 3.0])
    assert [*study.groups] == [f"{m}-{rate}" for rate in ("0.01", "0.03") for m in METHODS]
    an_epoch = sample.num_trained // config.train.global_batch
    for cell in study.cells:
        stages = cell.config.train.stages
        steps = [min(s.max_steps or 10**6, s.epochs * an_epoch) for s in stages.values()]
        assert sum(steps) == 2 + an_epoch
        assert cell.config.data.validation is cell.config.train.keep_best is None
    by_name = {cell.group.name: cell.config for cell in study.cells}
    assert [*by_name["lora-0.01"].train.stages] == ["finetune"]
    lope = by_name["lope-0.03"].train.stages
    assert [*lope] == ["poison", "finetune"]
    assert lope["finetune"].lr == 0.03
    assert lope["finetune"].groups[Role.ROUTER].lr == pytest.approx(0.009)
    lora = by_name["lora-0.01"].lope_adapter("test")
    assert lora.scaling == config.lope_adapter("test").scaling
    assert (lora.num_normal, lora.num_poison, lora.rank) == (1, 0, 10)
    judged = studies.judged({"lope": 3.0, "hydralora": 1.0, "lora": 1.0}, 2)
    assert {cell.folder for cell in judged.cells} & {cell.folder for cell in study.cells}
    other = MethodStudies(config.model_copy(update={"seed": 9}), sample, tmp_path)
    with pytest.raises(LopeError, match=r"another recipe .* --out"):
        other.write_recipe()


@pytest.mark.parametrize(
    ("num_runs", "expected"),
    [
        (2, (1, 1)),
        (5.9, (1, 1)),
        (6, (2, 1)),
        (11, (2, 2)),
        (12, (2, 3)),
        (15, (3, 3)),
        (99, (3, 5)),
    ],
)
def test_three_seeds_come_before_a_third_learning_rate(num_runs, expected):
    assert plan(num_runs) == expected


def test_a_search_leaves_the_time_to_score_the_best_runs() -> None:
    clock = Clock(minutes=30.5, since_start_s=0)
    clock.add("lope", {"train": 240.0, "loss-choose_on": 60.0})
    assert clock.run_seconds == pytest.approx(330)
    assert clock.left - clock.left_for_search == pytest.approx(1.1 * 3 * 60, abs=0.1)
    assert clock.num_runs == pytest.approx(1 + (1800 - 198) / 330, abs=0.01)
    assert "learning rates 1, seeds 1" in clock.forecast()
    clock.add("lora", {"train": 60.0})  # measured as it goes: the rest is faster than planned
    assert clock.run_seconds == pytest.approx(1.1 * (300 + 60) / 2)
    short = Clock(minutes=2, since_start_s=0)
    short.add("lope", {"train": 100.0})
    assert short.left < 90.01, "the end leaves time to stop a run and to write the report"
    assert "may need more than the 2 minutes" in short.forecast()
    busy = Clock(minutes=2, since_start_s=20)  # so slow a start: the report will be slow too
    assert busy.left == pytest.approx(120 - 20 - 15 - 60, abs=0.1)
    assert Clock(minutes=0.1, since_start_s=0).left == 0


def claims(**effects: tuple[float, bool | None]) -> list[dict[str, Any]]:
    found = {f"{method}_over_base": (0.5, True) for method in METHODS} | effects
    return [
        {"name": name, "effect": effect, "held": held, "ci95": [effect - 0.1, effect + 0.1]}
        for name, (effect, held) in found.items()
    ]


AHEAD, OPEN, BEHIND = (0.2, True), (0.05, None), (-0.2, False)


@pytest.mark.parametrize(
    ("lora", "hydralora", "seeds", "method", "words"),
    [
        (AHEAD, AHEAD, 3, "lope", "0.200 nats a token lower than that of LoRA, 95 % interval"),
        (AHEAD, OPEN, 3, "open", "no method is clearly ahead with 3 seeds"),
        (AHEAD, AHEAD, 2, "open", "2 seeds, and a verdict needs 3"),
        (OPEN, BEHIND, 3, "hydralora", "interval [0.100, 0.300]"),
        (BEHIND, OPEN, 4, "lora", "0.200 nats a token higher than that of LoRA"),
    ],
)
def test_what_is_recommended_is_what_the_claims_bear_out(lora, hydralora, seeds, method, words):
    found = recommend(claims(lope_over_lora=lora, lope_over_hydralora=hydralora), seeds)
    assert found["method"] == method
    assert words in found["sentence"]


def test_nothing_is_recommended_that_does_not_beat_the_base_model():
    worse = {f"{method}_over_base": BEHIND for method in METHODS}
    sides = {"lope_over_lora": AHEAD, "lope_over_hydralora": AHEAD}
    assert recommend(claims(**sides, **worse), 3)["method"] == "base"
    found = recommend(claims(**sides, lope_over_base=OPEN), 3)
    assert found["method"] == "open"
    assert "LoPE is ahead" in found["sentence"]


def test_a_recipe_without_a_poisoning_expert_is_refused(config, tmp_path):
    adapter = config.adapter.model_copy(update={"num_poison": 0})
    with pytest.raises(LopeError, match=r"adapter\.num_poison = 0; set adapter\.num_poison=1"):
        compare_methods(
            config.model_copy(update={"adapter": adapter}), CompareRequest(9, 9, tmp_path)
        )


@pytest.mark.thorough
@pytest.mark.timeout(900)  # nine commands in processes of their own
def test_the_command_runs_to_its_table_and_a_second_call_finds_it_done(
    config, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(module, "FACTORS", (1.0,))
    monkeypatch.setattr(module, "MOST_SEEDS", 1)
    monkeypatch.setattr(bars, "EVERY_S", 0.0)
    recipe, folder = tmp_path / "recipe.yaml", tmp_path / "comparison"
    recipe.write_text(dump_config(config))
    words = ["compare", str(recipe), "--minutes", "30", "--rows", "96", "--out", str(folder)]
    monkeypatch.setattr("sys.argv", ["lope", *words, "--json"])

    told = []

    def run() -> dict[str, Any]:
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        printed = capsys.readouterr()
        told[:] = printed.err.splitlines()
        return json.loads(printed.out)

    found = run()
    sample = r"\d+ rows to train on, \d+ to choose .*; at most 30 minutes\."
    step = r"Study: 0 of 2 steps, .*, lope-0\.01/seed-\d+ train: \w+ \d+/\d+ loss "
    for wanted in (sample, step):
        assert any(re.search(wanted, line) for line in told)
    assert [(row["label"], row["experts"]) for row in found["rows"]] == [
        ("LoPE, lr 0.01", "masked"),
        ("LoPE, lr 0.01", "all"),
        ("HydraLoRA, lr 0.01", "all"),
        ("LoRA, lr 0.01", "all"),
        ("base model", "base"),
    ]
    assert found["recommendation"]["method"] == "open"
    assert Path(found["plot"]).is_file()
    assert Path(found["page"]).is_file()
    runs = [*(folder / "runs").glob("*/*/metrics.jsonl")]
    assert len(runs) == 3
    before = [log.stat().st_mtime_ns for log in runs]
    assert run() == found
    assert [log.stat().st_mtime_ns for log in runs] == before
