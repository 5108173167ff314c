"""From a study's file to its cells."""

from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.study.steps import steps_of


def test_a_cell_is_a_recipe_with_overrides_and_seed(make_study):
    study = make_study()
    names = [cell.name for cell in study.cells]
    assert names == ["hydralora/seed-1", "lope/seed-1", "hydralora/seed-2", "lope/seed-2"]
    hydralora, lope = study.cells[0].config, study.cells[3].config
    assert (hydralora.adapter.num_poison, list(hydralora.train.stages)) == (0, ["finetune"])
    assert lope.train.stages["poison"].lr == 0.01
    assert lope.seed == 2
    assert lope.output_dir == str(study.folder / "runs/lope/seed-2")
    assert lope.data.path == str(study.folder / "data/train.jsonl")


def test_the_base_model_is_scored_once(make_study):
    rows = {cell.name: cell.rows for cell in make_study().cells}
    assert rows["hydralora/seed-1"] == ("all", "none")
    assert rows["hydralora/seed-2"] == ("all",)


def test_a_variant_may_have_fewer_seeds(make_study, study_tree):
    variants = study_tree["variants"]
    variants["hydralora"]["seeds"] = [2]
    cells = {cell.name: cell.rows for cell in make_study(variants=variants).cells}
    assert list(cells) == ["lope/seed-1", "hydralora/seed-2", "lope/seed-2"]
    assert cells["hydralora/seed-2"] == ("all", "none")
    variants["hydralora"]["seeds"] = [3]
    with pytest.raises(LopeError, match=r"variants\.hydralora\.seeds: 3"):
        make_study(variants=variants)


def test_a_variant_may_train_on_a_file_of_its_own(make_study, study_tree):
    variants = study_tree["variants"]
    variants["hydralora"]["train_file"] = "clean"
    paths = {c.group.name: c.config.data.path for c in make_study(variants=variants).cells}
    data = make_study().folder / "data"
    assert paths == {
        "hydralora": str(data / "clean.jsonl"),
        "lope": str(data / "train.jsonl"),
    }


def test_an_override_may_name_the_point(make_study):
    axes = {"noise": {"ocr": {"noise.data.rate": 0.1}, "typing": {"noise.data.rate": 0.2}}}
    variants = {
        "all": {"rows": ["all"], "overrides": {"adapter.num_poison": 0}},
        "kept": {
            "rows": ["all"],
            "overrides": {
                "adapter.num_poison": 0,
                "data.path": "data/{noise}_kept.jsonl",
                "model": {"chat_template": "{{noise}} {noise}"},
                "data.template": "chat",
            },
        },
    }
    keys = {"axes": axes, "variants": variants, "baseline": "all/all", "train_file": None}
    study = make_study(seeds=[1], **keys)
    paths = {cell.group.name: Path(cell.config.data.path).name for cell in study.cells}
    assert paths["kept@ocr"] == "ocr_kept.jsonl"
    assert paths["kept@typing"] == "typing_kept.jsonl"
    kept = next(cell.config for cell in study.cells if cell.group.name == "kept@ocr")
    assert kept.model.chat_template == "{{noise}} ocr", "within a tree too, and not Jinja's own"
    assert paths["all@ocr"] == paths["all@typing"] == "alpaca.jsonl"


def test_any_text_may_stand_in_an_override(make_study):
    text = "{{ '\U0001f600 \u2192 \\n' }} \"quoted\"\n"
    overrides = {"model.chat_template": text, "data.template": "chat"}
    assert make_study(overrides=overrides).cells[0].config.model.chat_template == text


def test_axes_multiply_the_variants_and_variants_win(make_study):
    axes = {
        "noise": {"none": {"noise.data.rate": 0}, "strong": {"noise.data.rate": 0.3}},
        "rank": {"r2": {"adapter.rank": 2}, "r8": {"adapter.rank": 8}},
    }
    variants = {
        "lope": {"rows": ["masked"], "overrides": {"adapter.rank": 4}},
        "lora": {"rows": ["all"], "where": {"noise": ["strong"], "rank": ["r8"]}},
    }
    study = make_study(axes=axes, variants=variants, seeds=[1], baseline="lora/all")
    configs = {cell.group.name: cell.config for cell in study.cells}
    expected = ["lope@none,r2", "lope@none,r8", "lope@strong,r2", "lope@strong,r8"]
    assert list(configs) == [*expected, "lora@strong,r8"]
    assert configs["lope@strong,r2"].noise.data.rate == 0.3
    assert configs["lope@none,r8"].noise.data.rate == 0
    assert configs["lope@none,r8"].adapter.rank == 4
    assert configs["lora@strong,r8"].adapter.rank == 8


def test_later_layers_win_over_what_they_set_or_contain(make_study):
    stage = {"trainable": ["shared_a", "normal_b"], "lr": 3e-3}
    study = make_study(
        seeds=[1],
        overrides={"train.stages.finetune.lr": 1e-3, "adapter.rank": 2},
        axes={"speed": {"slow": {"train.stages.finetune.lr": 5e-4}}},
        variants={
            "axis": {"rows": ["all"]},
            "mapping": {"rows": ["all"], "overrides": {"train.stages": {"finetune": stage}}},
            "key": {"rows": ["all"], "overrides": {"train.stages.finetune.lr": 7e-3}},
        },
        baseline="axis/all",
    )
    rates = {c.group.variant: c.config.train.stages["finetune"].lr for c in study.cells}
    assert rates == {"axis": 5e-4, "mapping": 3e-3, "key": 7e-3}
    assert {c.config.adapter.rank for c in study.cells} == {2}


def test_a_claim_is_judged_at_the_points_that_both_sides_have(make_study, study_tree):
    axes = {"rank": {"r2": {"adapter.rank": 2}, "r4": {"adapter.rank": 4}}}
    variants = study_tree["variants"]
    variants["lope"]["where"] = {"rank": ["r4"]}
    study = make_study(axes=axes, variants=variants, claims={"c": CLAIM})
    assert study.points_of_claim("lope", "hydralora") == ["@r4"]
    assert study.points_of_claim("lope@r4", "hydralora@r2") == [""]
    for sides in ({"better": "lope@r4/masked"}, {"better": "lope@r2/masked"}):
        with pytest.raises(LopeError, match=r"claims\.c"):
            make_study(axes=axes, variants=variants, claims={"c": CLAIM | sides})
    variants["hydralora"]["where"] = {"rank": ["r2"]}
    with pytest.raises(LopeError, match=r"claims\.c: .* axes"):
        make_study(axes=axes, variants=variants, claims={"c": CLAIM})


def test_a_suite_whose_tasks_changed_is_asked_again(make_study, tmp_path):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "own.yaml").write_text("task: own\n")
    own = tmp_path / "own_suite.yaml"
    own.write_text("tasks: [{task: own}]\n")

    def inputs(**suite) -> dict:
        study = make_study(evaluate={"suites": {"s": suite}}, seeds=[1])
        (step,) = [s for s in steps_of(study, study.cells[0]) if s.name == "eval-s"]
        return step.inputs

    by_task = {"tasks": ["own"], "include_path": str(tasks)}
    by_suite = {"suite": own.name, "include_path": str(tasks)}
    before = [inputs(**by_task), inputs(**by_suite)]
    assert before == [inputs(**by_task), inputs(**by_suite)]
    own.write_text("tasks: [{task: own, limit: 5}]\n")
    assert inputs(**by_suite) != before[1]
    assert inputs(**by_task) == before[0]
    (tasks / "own.yaml").write_text("task: own\noutput_type: multiple_choice\n")
    assert inputs(**by_task) != before[0]


def test_a_suite_may_be_asked_of_some_rows_alone(make_study, study_tree):
    suites = {"some": {"tasks": ["piqa"], "rows": ["none", "lope/all"]}}
    study_tree["variants"]["hydralora"]["seeds"] = [1]
    study = make_study(evaluate={"suites": suites})
    asked = {
        cell.name: step.inputs["rows"]
        for cell in study.cells
        for step in steps_of(study, cell)
        if step.name == "eval-some"
    }
    assert asked == {"hydralora/seed-1": ["none"], "lope/seed-1": ["all"], "lope/seed-2": ["all"]}
    suites["some"]["rows"] = ["hydralora/masked"]
    with pytest.raises(LopeError, match=r"suites\.some\.rows = 'hydralora/masked'"):
        make_study(evaluate={"suites": suites})


PIQA = {"tasks": ["piqa"]}
DRIFT = {"claim": "x", "metric": "drift:poison", "better": "lope/shared_a", "than": "lope/poison_b"}
CLAIM = {"claim": "x", "metric": "acc:piqa", "better": "lope/masked", "than": "hydralora/all"}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"train_file": "trian"}, ["train_file = 'trian'", "mean 'train'"]),
        (
            {"variants": {"a": {"rows": ["all"], "train_file": "trian"}}, "baseline": "a/all"},
            ["variants.a.train_file = 'trian'", "mean 'train'"],
        ),
        ({"seeds": [1, 1]}, ["seeds", "listed twice in [1, 1]"]),
        ({"means": {"m": []}}, ["means.m"]),
        (
            {"claims": {"c": DRIFT | {"than": "lope/poison_a"}}},
            ["claims.c.than = 'poison_a'", "mean 'poison_b'"],
        ),
        ({"overrides": {"seed": 3}}, ["overrides: 'seed' would have no effect, seeds decides"]),
        (
            {"axes": {"a": {"p": {"data.path": "x.jsonl"}}}},
            ["axes.a.p: 'data.path' would have no effect, train_file decides"],
        ),
        (
            {"evaluate": {"losses": ["clean"]}, "choose_on": "loss:clean"},
            ["choose_on would have no effect"],
        ),
        ({"choose_on": "loss:clena"}, ["choose_on = 'loss:clena'"]),
        (
            {"variants": {"a": {"rows": ["all"], "choose_from": ["all"]}}, "baseline": "a/all"},
            ["variants.a.choose_from needs choose_on"],
        ),
        (
            {"variants": {"a": {"rows": ["all"], "choose_from": ["al"]}}, "baseline": "a/all"},
            ["variants.a.choose_from = 'al'", "mean 'all'"],
        ),
        ({"baseline": "lope/maskd"}, ["baseline", "mean 'lope/masked'"]),
        ({"claims": {"c": CLAIM | {"than": "lora/all"}}}, ["claims.c.than", "'lora/all'"]),
        ({"claims": {"c": CLAIM | {"metric": "loss:clean"}}}, ["claims.c.metric", "'loss:clean'"]),
        ({"claims": {"c": CLAIM | {"metric": "mean"}}}, ["claims.c.metric", "'mean'"]),
        (
            {"evaluate": {"losses": ["clean"]}, "columns": ["loss:clena"]},
            ["columns = 'loss:clena'", "mean 'loss:clean'"],
        ),
        ({"columns": ["both"]}, ["columns = 'both'"]),
        ({"means": {"m": ["loss:clean"]}}, ["means.m = 'loss:clean'"]),
        ({"means": {"m": ["acc"]}}, ["means.m = 'acc'"]),
        ({"paper": {"loss:clean": {"lope/all": 1}}}, ["paper = 'loss:clean'"]),
        (
            {
                "axes": {"rank": {"r2": {"adapter.rank": 2}}},
                "paper": {"acc:piqa": {"lope/all": 1}},
            },
            ["paper.acc:piqa = 'lope/all'", "mean 'lope@r2/all'"],
        ),
        (
            {"evaluate": {"losses": ["clean", "elsewhere/clean.parquet"]}},
            ["'clean' and 'elsewhere/clean.parquet'", "loss:clean"],
        ),
        (
            {"evaluate": {"suites": {"a": PIQA, "b": PIQA | {"limit": 5}}}},
            ["'a' and 'b'", "'piqa'", "limit: None and 5"],
        ),
        (
            {"evaluate": {"suites": {"a": {"suite": "paper"}, "b": PIQA | {"num_fewshot": 5}}}},
            ["'a' and 'b'", "'piqa'", "num_fewshot"],
        ),
        ({"evaluate": {"suites": {"a": {"suite": "papre"}}}}, ["suites.a: ", "mean 'paper'"]),
        ({"paper": {"acc:piqa": {"lope/none": 1}}}, ["paper.acc:piqa", "'lope/none'"]),
        ({"seed": [1]}, ["'seed' in the top level", "mean 'seeds'"]),
        ({"seeds": []}, ["seeds"]),
        ({"files": {"a b": {"source": "x"}}}, ["'a b'", "names folders"]),
        ({"files": {"a": {"source": "x", "rows": [3, 3]}}}, ["rows = [3, 3]"]),
        ({"evaluate": {"suites": {"s": {}}}}, ["suite and tasks"]),
        (
            {"variants": {"a": {"rows": ["all"], "where": {"x": ["y"]}}}, "baseline": "a/all"},
            ["variants.a.where = 'x'"],
        ),
    ],
)
def test_what_does_not_fit_is_told(make_study, changes, parts):
    with pytest.raises(LopeError) as caught:
        make_study(**changes)
    for part in ["tiny_study.yaml", *parts]:
        assert part in str(caught.value)


def test_names_that_fit_and_suites_that_ask_alike_are_taken(make_study, study_tree):
    variants = study_tree["variants"]
    make_study(
        axes={"rank": {"r2": {"adapter.rank": 2}, "r4": {"adapter.rank": 4}}},
        evaluate={
            "losses": ["clean"],
            "suites": {"a": PIQA, "b": {"tasks": ["piqa", "siqa"]}, "c": {"suite": "paper_noisy"}},
        },
        means={"m": ["loss:clean", "acc:piqa"]},
        columns=["m", "loss:clean", "acc:siqa", "drift:poison"],
        paper={"acc:piqa": {"lope@r4/all": 1}, "m": {"lope@r2/masked": 2}},
        variants=variants,
    )


def test_a_cell_that_is_not_valid_is_named(make_study):
    variants = {"lope": {"rows": ["masked"], "overrides": {"adapter.rnk": 4}}}
    with pytest.raises(LopeError, match=r"tiny_study\.yaml, lope: .*'rnk'.*'rank'"):
        _ = make_study(variants=variants, baseline="lope/masked").cells
