"""The share of a noise's cost that is recovered, and its interval."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from support.quick import quick
from support.study_runs import write_runs

from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_json, write_json
from lope_dist.study.observe import Documents, Observation, Series
from lope_dist.study.published import publish
from lope_dist.study.recovered import share_of
from lope_dist.study.summary import summarize

FLOOR, CEILING = 2.1, 2.0


def series(mean: float, moves_SN: np.ndarray) -> Series:
    """Return a loss of each seed: a mean, and how far each document is from it."""
    num_documents = moves_SN.shape[1]
    counts, ids = np.full(num_documents, 20.0), tuple(range(num_documents))
    found = {}
    for seed, own_N in enumerate(moves_SN):
        totals = counts * (mean + own_N)
        value = float(totals.sum() / counts.sum())
        found[seed] = Observation(value, "", None, (Documents(ids, totals, counts),))
    return found


def simulated(share: float, seeds: int, random: np.random.Generator, cost: float = 0.1) -> list:
    """Return floor, method and ceiling of one study.

    They have documents and seeds in common; noise and method also act on each by themselves.
    """
    shared = random.normal(0, 0.4, 80) + random.normal(0, 0.01, (seeds, 1))
    sides = []
    for mean in (CEILING + cost, CEILING + cost * (1 - share), CEILING):
        by_document, by_seed = random.normal(0, 0.05, 80), random.normal(0, 0.01, (seeds, 1))
        own = by_document + by_seed + random.normal(0, 0.05, (seeds, 80))
        sides.append(series(mean, shared + own))
    return sides


@pytest.mark.parametrize(
    ("share", "seeds"),
    quick(product([0.0, 0.5, 0.9], [3, 5]), (0.0, 5), (0.5, 3), (0.9, 3)),
)
def test_the_interval_covers_as_often_as_it_says(share: float, seeds: int) -> None:
    covered, unknown = 0, 0
    for study in range(150):
        found = share_of(*simulated(share, seeds, np.random.default_rng(study)))
        if found["ci95"] is None:
            unknown += 1
            continue
        low, high = found["ci95"]
        assert low <= found["share"] <= high
        covered += low <= share <= high
    assert unknown < 0.2 * 150
    assert covered >= 0.9 * (150 - unknown)


def test_it_is_a_ratio_of_means_and_no_mean_of_ratios() -> None:
    """One seed has a small cost; its ratio would outweigh all others."""
    values = [(3.2, 3.1, 3.0), (3.2, 3.1, 3.0), (3.2, 3.1, 3.0), (3.08, 3.12, 3.0)]
    sides = [{s: Observation(v[i], "", 1e-4) for s, v in enumerate(values)} for i in range(3)]
    found = share_of(*sides)
    assert found["cost"] == pytest.approx(0.17)
    assert found["share"] == pytest.approx((0.3 - 0.04) / 0.68)


def test_the_interval_counts_what_the_cost_is_uncertain_by() -> None:
    """A method on the ceiling in every document has recovered all; its cost may be anything."""
    floor, method, ceiling = simulated(0.5, 5, np.random.default_rng(1))
    found = share_of(floor, ceiling, ceiling)
    assert found["share"] == pytest.approx(1)
    assert found["ci95"] == pytest.approx([1, 1], abs=1e-6)
    assert share_of(floor, floor, ceiling)["ci95"] == pytest.approx([0, 0], abs=1e-6)
    half = share_of(floor, method, ceiling)["ci95"]
    assert half[1] - half[0] > 0.05


def test_of_no_clear_cost_there_is_no_share() -> None:
    found = share_of(*simulated(0.5, 3, np.random.default_rng(0), cost=0.001))
    assert (found["share"], found["ci95"]) == (None, None)
    assert found["notes"] == ["the noise has no clear cost, of which nothing can be recovered"]


def test_two_seeds_judge_nothing() -> None:
    wide = share_of(*simulated(0.5, 2, np.random.default_rng(3), cost=1.0))
    assert "2 seeds: no verdict below 3" in wide["notes"]


@pytest.fixture
def study(make_study):
    """Two baselines and LoPE; HydraLoRA is the better one with the noise, LoRA without."""
    plain = {"adapter.num_poison": 0}
    made = make_study(
        seeds=[1, 2, 3],
        axes={"noise": {"clean": {"noise.data.rate": 0}, "ocr": {"noise.data.rate": 0.3}}},
        evaluate={"losses": ["clean"]},
        variants={
            "lora": {"rows": ["all"], "overrides": plain | {"adapter.num_normal": 1}},
            "hydralora": {"rows": ["all"], "overrides": plain},
            "lope": {"rows": ["masked", "all"], "where": {"noise": ["ocr"]}},
        },
        recovered={
            "metric": "loss:clean",
            "axis": "noise",
            "clean": "clean",
            "baselines": ["lora", "hydralora"],
        },
    )
    made.data_file("clean").parent.mkdir(parents=True)
    made.data_file("clean").write_text("{}\n")
    return made


LOSS = {
    "lora@clean/all": 2.0,
    "hydralora@clean/all": 2.2,
    "lora@ocr/all": 3.2,
    "hydralora@ocr/all": 3.0,
    "lope@ocr/masked": 2.4,
    "lope@ocr/all": 9.0,
}


def test_floor_and_ceiling_are_of_the_best_baseline_and_the_same_for_all(study, tmp_path) -> None:
    accuracy = dict.fromkeys(LOSS, 0.5)
    write_runs(study, LOSS, accuracy)
    found = summarize(study)["recovered"]
    assert list(found) == ["ocr"]
    of = found["ocr"]
    assert {name: (one["floor"], one["ceiling"]) for name, one in of.items()} == dict.fromkeys(
        ("lora", "hydralora", "lope"), ("hydralora@ocr", "lora@clean")
    )
    assert of["lope"]["share"] == pytest.approx(0.6, abs=0.05)
    assert of["lora"]["share"] == pytest.approx(-0.2, abs=0.05)
    assert of["hydralora"]["share"] == pytest.approx(0, abs=1e-9)
    low, high = of["lope"]["ci95"]
    assert 0.4 < low < 0.6 < high < 0.8
    page = publish(study, tmp_path / "docs").read_text()
    written = read_json(tmp_path / "docs" / "results.json")["recovered"]["ocr"]["lope"]
    assert {"share", "ci95", "seeds"} <= written.keys()
    assert written["seeds"] == [1, 2, 3]
    assert (tmp_path / "docs/results" / study.path.stem / "recovered-ocr.png").exists()
    assert "| ocr | lope | 0.6" in page


def test_studies_whose_runs_are_gone_stay_published(study, tmp_path, capsys) -> None:
    write_runs(study, LOSS, dict.fromkeys(LOSS, 0.5))
    docs = tmp_path / "docs"
    of_gone = docs / "results" / "gone" / "results.json"
    claim = {"claim": "It was so", "held": None, "effect": 0.1, "ci95": [-1, 1]}
    gone = {"title": "Gone", "study": "gone.yaml", "seeds": [7], "claims": [claim]}
    write_json(of_gone, gone | {"recovered": {"typing": {"lope": {"share": 0.25}}}})
    publish(study, docs)
    written = read_json(docs / "results.json")
    assert written["seeds"] == [1, 2, 3, 7]
    assert {"study": "gone.yaml", **claim} in written["claims"]
    assert written["recovered"]["typing"] == {"lope": {"share": 0.25}}
    assert set(written["recovered"]["ocr"]) == {"lora", "hydralora", "lope"}
    assert "| [Gone](results/gone/README.md) | 7 | 0 | 0 | 1 |" in (docs / "results.md").read_text()

    write_json(of_gone, gone | {"recovered": {"ocr": {"lope": {"share": 0.25}}}})
    before = {path: path.read_bytes() for path in docs.rglob("*.*") if path.is_file()}
    with pytest.raises(LopeError, match="shares of lope at the noise 'ocr' too"):
        publish(study, docs)
    assert {path: path.read_bytes() for path in docs.rglob("*.*") if path.is_file()} == before

    of_gone.write_text('{"rows": []}')
    publish(study, docs)
    assert "gone/results.json is damaged" in capsys.readouterr().err
    assert "Gone" not in (docs / "results.md").read_text()


def test_what_is_not_trained_yet_is_left_out(study) -> None:
    cells = {cell.name: cell for cell in study.cells}
    write_runs(study, LOSS, dict.fromkeys(LOSS, 0.5))
    for seed in (1, 2, 3):
        folder = cells[f"lope@ocr/seed-{seed}"].folder
        (folder / "study" / "train.json").unlink()
    assert "lope" not in summarize(study)["recovered"]["ocr"]
    for seed in (1, 2, 3):
        (cells[f"hydralora@ocr/seed-{seed}"].folder / "study" / "train.json").unlink()
    assert summarize(study)["recovered"] == {}, "the floor would be another once it is there"
