import json

import pytest
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.config.load import load_config
from lope_dist.config.noise import DataNoiseConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.corrupt import corrupt_file
from lope_dist.corpus.fit_noise import fit_paired, fit_unpaired

PAIRS = 2000
MIXES = {
    "paper": {"operations": {"word_order": 1, "char_insert": 1, "char_delete": 1}},
    "typing": {"operations": {"keyboard": 4, "char_swap": 2, "char_delete": 3, "char_double": 1}},
    "speech": {
        "operations": {"case_loss": 2, "punctuation_loss": 2, "homophone": 1, "word_drop": 1},
        "responses": {"rate": 0.06, "operations": {"wrong_label": 1, "truncate": 1, "garbage": 1}},
    },
}


@pytest.fixture(scope="module")
def files(data_dir, tmp_path_factory):
    """2,000 clean rows, those rows with 5 % noise of each mix, and other rows."""
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("fit")
    rows = pq.read_table(data_dir / "train" / "alpaca_random.parquet").to_pylist()
    for name, part in (("clean", rows[:PAIRS]), ("other", rows[PAIRS : 4 * PAIRS])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(lines)
    for name, mix in MIXES.items():
        config = DataNoiseConfig.model_validate({"rate": 0.05} | mix)
        corrupt_file(folder / "clean.jsonl", folder / f"{name}.jsonl", config, 7, progress=False)
    for name in ("clean", "speech"):
        lines = (folder / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"few_{name}.jsonl").write_text("".join(lines[:500]))
    return folder


@pytest.mark.thorough  # `test_fit_scripts.py` gives the mix of another language back
@pytest.mark.parametrize("name", MIXES)
def test_pairs_give_the_mix_back_within_20_percent(files, name):
    config = DataNoiseConfig.model_validate({"rate": 0.05} | MIXES[name])
    fit = fit_paired(files / f"{name}.jsonl", files / "clean.jsonl", seed=1)
    truth = {operation: 0.05 * share for operation, share in config.shares.items()}
    assert set(fit.operations) == set(truth)
    for operation, estimate in fit.operations.items():
        assert estimate.rate == pytest.approx(truth[operation], rel=0.2), operation
        assert estimate.low <= estimate.rate <= estimate.high
    if config.responses.rate:
        assert set(fit.responses) >= set(config.responses.shares)
        for operation, share in config.responses.shares.items():
            assert fit.responses[operation].rate == pytest.approx(0.06 * share, rel=0.35)
    assert sum(e.rate for n, e in fit.responses.items() if n not in config.responses.shares) < 0.003


@pytest.mark.thorough
def test_without_pairs_the_spelling_part_comes_back_within_a_third(files):
    fit = fit_unpaired(files / "typing.jsonl", files / "other.jsonl", seed=1)
    config = DataNoiseConfig.model_validate({"rate": 0.05} | MIXES["typing"])
    for operation, share in config.shares.items():
        assert fit.operations[operation].rate == pytest.approx(0.05 * share, rel=0.33)
    assert sum(e.rate for e in fit.operations.values()) == pytest.approx(0.05, rel=0.2)


@pytest.mark.thorough
def test_clean_data_shows_no_noise(files):
    fit = fit_paired(files / "clean.jsonl", files / "clean.jsonl", seed=1)
    assert (fit.operations, fit.responses) == ({}, {})
    assert fit.as_config()["rate"] == 0


def test_the_written_layer_is_one_that_a_recipe_takes(files, tmp_path):
    out = tmp_path / "noise.yaml"
    arguments = ["noise", "fit", "--noisy", str(files / "few_speech.jsonl"), "--clean"]
    arguments += [str(files / "few_clean.jsonl"), "--out", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "include: noise.yaml\noutput_dir: runs/x\nmodel: {name_or_path: a/b}\n"
        "data: {path: data.jsonl}\n"
    )
    text = load_config(recipe).noise.text
    assert set(text.shares) == set(found["operations"])
    assert text.rate == pytest.approx(
        sum(e["rate"] for e in found["operations"].values()), abs=1e-4
    )
    assert set(text.responses.shares) == set(found["responses"])
    assert "95 %" in out.read_text()
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, LopeError)
    assert "exists already" in str(again.exception)


def test_files_that_are_no_pairs_are_refused(files, tmp_path):
    with pytest.raises(LopeError, match=r"2000 rows and .* 6000"):
        fit_paired(files / "clean.jsonl", files / "other.jsonl", seed=1)
    few = tmp_path / "few.jsonl"
    few.write_text('{"instruction": "a", "output": "b"}\n' * 3)
    with pytest.raises(LopeError, match="has 3 rows"):
        fit_paired(few, few, seed=1)


def test_corrupt_verb(files, tmp_path):
    out = tmp_path / "out.parquet"
    arguments = ["corpus", "corrupt", str(files / "clean.jsonl"), str(out), "--rate", "0.1"]
    arguments += ["--operations", "keyboard=3,ocr", "--response-rate", "0.05", "--json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    summary = json.loads(done.stdout)
    assert summary["rows"] == PAIRS
    assert summary["hits"]["keyboard"] == pytest.approx(3 * summary["hits"]["ocr"], rel=0.1)
    assert summary["hits"]["wrong_label"] == pytest.approx(0.05 * PAIRS, rel=0.3)
