"""From a study's file to its cells."""

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
    with pytest.raises(LopeError, match=r"suites\.some\.rows = 'hydralora/masked' is not one of"):
        make_study(evaluate={"suites": suites})


CLAIM = {"claim": "x", "metric": "acc:piqa", "better": "lope/masked", "than": "hydralora/all"}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"train_file": "trian"}, ["train_file = 'trian'", "mean 'train'"]),
        (
            {"variants": {"a": {"rows": ["all"], "train_file": "trian"}}, "baseline": "a/all"},
            ["variants.a.train_file = 'trian'", "mean 'train'"],
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
        ({"paper": {"acc:piqa": {"lope/none": 1}}}, ["paper.acc:piqa", "'lope/none'"]),
        ({"seed": [1]}, ["seed", "not permitted"]),
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


def test_a_cell_that_is_not_valid_is_named(make_study):
    variants = {"lope": {"rows": ["masked"], "overrides": {"adapter.rnk": 4}}}
    with pytest.raises(LopeError, match=r"tiny_study\.yaml, lope: .*'rnk'.*'rank'"):
        _ = make_study(variants=variants, baseline="lope/masked").cells
