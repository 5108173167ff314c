"""The noise of data in many scripts is found again, from files of pairs."""

import json

import pytest
from support.quick import quick
from support.row_files import write_rows
from support.scripts import rows
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.config.data import DataConfig
from lope_dist.config.noise import DataNoiseConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.corrupt import corrupt_file
from lope_dist.corpus.fit_noise import fit_paired
from lope_dist.noise.fit_cut import cut
from lope_dist.noise.fit_pairs import count_changes
from lope_dist.noise.fit_solve import fit_rates, simulated

PAPER = ("word_order", "char_insert", "char_delete")
MIXES = [
    ("zh", PAPER),
    ("ja", {"word_drop": 2, "char_swap": 2, "punctuation_loss": 1}),
    ("th", {"word_duplicate": 1, "char_delete": 2, "char_swap": 2}),
    ("ar", PAPER),
    ("ru", {"word_replace": 1, "case_loss": 1, "char_double": 2}),
]


@pytest.mark.parametrize(("language", "operations"), quick(MIXES, MIXES[3]))
def test_two_thousand_pairs_give_five_percent_back(tmp_path, language, operations):
    clean = write_rows(tmp_path / "clean.jsonl", rows(language, 2000))
    config = DataNoiseConfig.model_validate({"rate": 0.05, "operations": operations})
    corrupt_file(clean, tmp_path / "noisy.jsonl", config, 7, progress=False)
    fit = fit_paired(tmp_path / "noisy.jsonl", clean, seed=614)
    assert set(fit.operations) == set(config.shares)
    assert fit.responses == {}
    for name, estimate in fit.operations.items():
        truth = 0.05 * config.shares[name]
        assert estimate.rate == pytest.approx(truth, rel=0.2), name
        assert estimate.low < estimate.rate < estimate.high
    assert sum(e.rate for e in fit.operations.values()) == pytest.approx(0.05, rel=0.1)


@pytest.mark.thorough
def test_nine_intervals_in_ten_or_more_hold_the_truth():
    rates, held, total = {"word_order": 0.02, "char_insert": 0.02, "char_delete": 0.02}, 0, 0
    for number in range(14):
        clean = [tuple(row.values()) for row in rows("zh", 100, seed=number)]
        noisy, _ = simulated(clean, rates, 1000 + number)
        found = fit_rates(
            noisy, clean, lambda at, row, clean=clean: count_changes(clean[at], row), seed=614
        ).rates
        assert set(found) <= set(rates)
        for name, rate in rates.items():
            held += name in found and found[name].low <= rate <= found[name].high
            total += 1
    assert held / total >= 0.85  # of 42; at 95 % fewer come once in a hundred


@pytest.mark.parametrize("language", ["zh", "th", "ar"])
def test_clean_pairs_show_nothing(tmp_path, language):
    clean = write_rows(tmp_path / "clean.jsonl", rows(language, 100))
    fit = fit_paired(clean, clean, seed=1)
    assert (fit.operations, fit.responses) == ({}, {})
    if language == "zh":
        assert {"keyboard", "homophone", "case_loss"} <= set(fit.not_judged)
        assert "not judged: case_loss" in fit.as_yaml("text")


def test_wrong_answers_are_told_from_words_that_changed(tmp_path):
    clean = write_rows(tmp_path / "clean.jsonl", rows("zh", 600))
    mix = {"rate": 0.05, "operations": {"word_drop": 1, "char_insert": 1}}
    mix["responses"] = {"rate": 0.06, "operations": ["wrong_label", "garbage"]}
    config = DataNoiseConfig.model_validate(mix)
    corrupt_file(clean, tmp_path / "noisy.jsonl", config, 7, progress=False)
    fit = fit_paired(tmp_path / "noisy.jsonl", clean, seed=614)
    assert set(fit.operations) == {"word_drop", "char_insert"}
    assert set(fit.responses) == {"wrong_label", "garbage"}
    for estimate in fit.responses.values():
        assert estimate.low <= 0.03 <= estimate.high


CUTS = [
    ("公园x散步", "公园 x 散步", [((), (1,))]),
    ("公散步", "公 散步", [((0,), (0,))]),
    ("散步公园", "散步 公园", [((0, 1), (0, 1))]),
    ("公园公园散步", "公园 公园 散步", [((), (1,))]),
    ("散步", "散步", [((0,), ())]),
    ("公园", "公园", [((1,), ())]),
    ("公园散步", "公园 散步", []),
    ("公园散步去", "公园 散步 去", [((), (2,))]),
    ("园公x散步", "园公x 散步", [((0,), (0,))]),
    ("", "", [((0,), ()), ((1,), ())]),
]


@pytest.mark.parametrize(("noisy", "pieces", "steps"), CUTS)
def test_a_noisy_text_is_cut_as_the_clean_words_ask(noisy, pieces, steps):
    assert cut(["公园", "散步"], noisy) == (pieces.split(), steps)


def test_rows_too_few_are_one_sentence(tmp_path):
    few = [{"text": f"a short line {i}"} for i in range(20)]
    path = write_rows(tmp_path / "few.jsonl", few)
    with pytest.raises(LopeError, match=r"few\.jsonl has 80 words in 20 rows; a fit needs 500"):
        fit_paired(path, path, seed=1)
    brackets = [{"text": "<a> [b] " * 20} for _ in range(20)]
    path = write_rows(tmp_path / "brackets.jsonl", brackets)
    with pytest.raises(LopeError, match=r"20 .* 800 "):
        fit_paired(path, path, seed=1)


def test_rows_are_read_as_training_reads_them(tmp_path):
    """A bad row takes its partner with it, so that the others stay pairs."""
    good = [{"q": row["instruction"], "a": row["output"]} for row in rows("zh", 200)]
    lines = [json.dumps(row, ensure_ascii=False) for row in good]
    clean, noisy = list(lines), list(lines)
    noisy[50] = "{broken"
    clean[120] = json.dumps({"q": 3, "a": "b"})
    for name, content in (("clean", clean), ("noisy", noisy)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(content))
    arguments = ["noise", "fit", "--noisy", str(tmp_path / "noisy.jsonl"), "--clean"]
    arguments += [str(tmp_path / "clean.jsonl"), "--format", "alpaca", "--json"]
    arguments += ["--column", "instruction=q", "--column", "output=a"]
    done = CliRunner().invoke(app, [*arguments, "--max-bad-rows", "0.01"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert (found["rows"], found["operations"]) == (198, {})
    assert "noisy.jsonl, line 51: not valid JSON" in done.stderr
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, LopeError)
    assert "noisy.jsonl, line 51" in str(refused.exception)
    odd = CliRunner().invoke(app, [*arguments, "--column", "input"])
    assert "'input' is not FIELD=COLUMN" in str(odd.exception)
    settings = DataConfig(path="x", format="messages")
    with pytest.raises(LopeError, match="'messages' is missing"):
        fit_paired(tmp_path / "noisy.jsonl", tmp_path / "clean.jsonl", 1, settings)
