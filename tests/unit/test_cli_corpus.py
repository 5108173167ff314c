"""`lope corpus`: what its verbs print, and one line with status 2 for bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lope_dist.cli import main
from lope_dist.config.load import dump_config


@pytest.fixture(scope="module")
def recipe(config_in, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "recipe.yaml").write_text(dump_config(config_in(folder / "run")))
    return str(folder / "recipe.yaml")


@pytest.fixture
def lope(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function: arguments of `lope corpus` -> (status, standard output, last error)."""

    def run(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["lope", "corpus", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err.strip().split("\n")[-1]

    return run


@pytest.fixture
def corpus(lope, recipe: str, tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    assert lope("build", recipe, "--out", folder, "--shard-examples", 20)[0] == 0
    return folder


def test_build_again_finds_all(lope, recipe: str, corpus: Path) -> None:
    arguments = ["build", recipe, "--out", corpus, "--shard-examples", 20, "--json"]
    status, out, _ = lope(*arguments, "data.workers=2", "train.micro_batch=1")
    assert status == 0
    told = json.loads(out)
    assert (told["made"], told["found"]) == (0, 10)
    assert told["counts"]["clean"]["examples"] == 83
    assert told["hash"] == json.loads((corpus / "manifest.json").read_text())["hash"]
    status, out, error = lope(*arguments, "data.max_length=240")
    assert (status, out) == (2, "")
    assert "max_length: 256 -> 240" in error


def test_parts_of_nodes(lope, recipe: str, corpus: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    common = ["build", recipe, "--out", parts, "--shard-examples", 20, "--num-nodes", 2]
    status, out, _ = lope(*common, "--node-rank", 1)
    assert status == 0
    assert "Part 1 of 2 is whole: 5 shards made, 0 there before." in out
    assert "lope corpus merge" in out
    status, _, error = lope("merge", parts)
    assert status == 2
    assert "5 of 10 " in error
    status, _, error = lope("verify", parts)
    assert status == 2
    assert "is not finished" in error
    assert lope(*common)[0] == 0
    status, out, _ = lope("merge", parts)
    assert (status, "83" in out) == (0, True)
    assert (parts / "manifest.json").read_bytes() == (corpus / "manifest.json").read_bytes()


def test_verify(lope, corpus: Path) -> None:
    status, out, _ = lope("verify", corpus)
    assert (status, out.endswith(f"Whole: {corpus}\n")) == (0, True)
    (corpus / "shards" / "clean-000001.arrow").unlink()
    status, _, error = lope("verify", corpus)
    assert status == 2
    assert "clean-000001.arrow" in error


def test_show_marks_the_changes(lope, corpus: Path) -> None:
    status, out, _ = lope("show", corpus, "-n", 83, "--json")
    assert status == 0
    examples = json.loads(out)
    assert [example["example_id"] for example in examples] == list(range(83))
    changed = 0
    for example in examples:
        runs = example["changes"]
        assert "".join(run["before"] for run in runs) == example["clean"]
        assert "".join(run["after"] for run in runs) == example["noisy"]
        assert all((run["kind"] == "equal") == (run["before"] == run["after"]) for run in runs)
        changed += example["clean"] != example["noisy"]
    assert changed > 30
    assert "Add the numbers 0 and 0 and say the sum." in examples[0]["clean"]
    number, example = next((i, e) for i, e in enumerate(examples) if e["clean"] != e["noisy"])
    status, out, _ = lope("show", corpus, "--first", number, "-n", 1)
    assert status == 0
    assert f"Example {number}" in out
    words = [
        w for run in example["changes"] if run["kind"] != "equal" for w in run["after"].split()
    ]
    assert words
    assert all(word in out for word in words)
    assert "{+" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("show", "{corpus}", "--first", "83"), "There is no example 83; the corpus has 0 to 82."),
        (("show", "{corpus}", "--epoch", "1"), "There is no noisy view of epoch 1;"),
        (("show", "nowhere"), "nowhere holds no corpus; make one with"),
        (("merge", "nowhere"), "nowhere holds no part of a corpus"),
        (
            ("build", "{recipe}", "--out", "x", "--num-nodes", "2", "--node-rank", "2"),
            "--node-rank 2 with --num-nodes 2: ranks go from 0",
        ),
        (("build", "{recipe}", "--out", "/proc/nowhere"), "/proc/nowhere cannot be written"),
        (("build", "{recipe}", "--out", "x", "data.max_lngth=3"), "Did you mean 'max_length'?"),
    ],
)
def test_bad_input_is_told_in_a_line(
    lope, recipe: str, corpus: Path, arguments: tuple[str, ...], told: str
) -> None:
    filled = [a.format(corpus=corpus, recipe=recipe) for a in arguments]
    status, out, error = lope(*filled)
    assert (status, out) == (2, "")
    assert error.startswith("error: ")
    assert told in error
