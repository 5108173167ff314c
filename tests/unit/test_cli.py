"""Every verb of `lope`: what it prints, and one line with status 2 for bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.tiny import TINY_ARCHITECTURE as ARCHITECTURE

from lope_dist import __version__
from lope_dist.cli import main
from lope_dist.config.load import dump_config, load_config
from lope_dist.evaluate.harness import suite


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """Return a recipe whose model exists as an architecture alone."""
    path = tmp_path / "recipe.yaml"
    tree = {
        "output_dir": str(tmp_path / "run"),
        "model": {"name_or_path": "/no/such/model", "architecture": ARCHITECTURE},
        "data": {"path": str(tmp_path / "data.jsonl")},
        "train": {},
    }
    path.write_text(yaml.safe_dump(tree))
    return str(path)


@pytest.fixture
def lope(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function: arguments -> (status, standard output, standard error)."""

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["lope", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return run


@pytest.fixture
def refused(lope):
    """Return a function: arguments -> the one line that tells what is wrong."""

    def run(*arguments: str) -> str:
        status, out, error = lope(*arguments)
        assert (status, out) == (2, "")
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert error.endswith("\n")
        assert "Traceback" not in error
        return error

    return run


def test_the_command_alone_helps_and_says_its_version(lope) -> None:
    for arguments in ((), ("-h",), ("--help",)):
        status, out, _ = lope(*arguments)
        assert status == 0
        assert "Usage: lope" in out
    assert "Usage: lope train" in lope("train", "-h")[1]
    assert lope("--version") == (0, f"{__version__}\n", "")


@pytest.fixture
def rows(recipe: str) -> Path:
    """The file that the recipe's rows are in."""
    path = Path(recipe).with_name("data.jsonl")
    path.write_text('{"prompt": "q", "completion": "a"}\n')
    return path


def test_check_looks_for_rows_with_a_stated_architecture_too(lope, recipe: str) -> None:
    status, out, _ = lope("check", recipe)
    *_, looked, last = out.splitlines()
    assert (status, last) == (0, f"ok but for the data, which a run would not find: {recipe}")
    assert looked.startswith("Data: not looked at")
    assert "data.jsonl" in looked
    assert json.loads(lope("check", recipe, "--json")[1])["ok"] is False
    status, out, _ = lope("check", recipe, "--no-data")
    assert (status, out.splitlines()[-1]) == (0, f"ok: {recipe}")


def test_check_reads_rows_with_a_tokenizer_of_the_cache_and_asks_nobody(
    lope, refused, recipe: str, rows: Path, tiny_llama: Path, tmp_path: Path, monkeypatch
) -> None:
    path = Path(recipe)
    path.write_text(path.read_text().replace("/no/such/model", "someone/small"))
    status, out, _ = lope("check", recipe)
    *_, looked, last = out.splitlines()
    assert (status, last) == (0, f"ok: {recipe}")
    assert looked.startswith("Data: not looked at")
    assert "lope data stats" in looked
    cache = tmp_path / "hub" / "models--someone--small"
    shutil.copytree(tiny_llama, cache / "snapshots" / "c0ffee")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("c0ffee")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    status, out, _ = lope("check", recipe)
    assert status == 0
    assert "Tokenizer: 258 tokens" in out
    assert "  examples                               1" in out
    rows.write_text('{"prompt": "q"}\n')
    assert f"{rows}, line 1: " in refused("check", recipe)


@pytest.mark.usefixtures("rows")
def test_check_says_what_a_run_stands_on_and_ends_with_ok(lope, recipe: str) -> None:
    status, out, _ = lope("check", recipe, "noise.data.rate=0.1", "data.max_examples=7")
    assert status == 0
    *told, last = out.splitlines()
    assert last == f"ok: {recipe}"
    text = "\n".join(told)
    assert "100.0%" in text
    assert "lope on 4 layers (q_proj, v_proj)" in text
    assert "Tokenizer: not looked at" in text
    assert "10.0%" in text
    assert " 7 rows" in text


@pytest.mark.usefixtures("rows")
def test_check_prints_a_configuration_that_loads_again(lope, recipe: str, tmp_path: Path) -> None:
    overrides = "adapter.rank=8", "train.stages.finetune.lr=1e-3"
    status, out, _ = lope("check", recipe, *overrides, "--full")
    assert status == 0
    assert out.splitlines()[-1] == f"# ok: {recipe}"
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(out)
    config = load_config(resolved)
    assert out.startswith(dump_config(config))
    assert config.adapter.rank == 8
    assert config.train.stages["finetune"].lr == 1e-3
    assert not (tmp_path / "run").exists()
    status, out, _ = lope("check", recipe, *overrides, "--json", "--full")
    found = json.loads(out)
    assert found["ok"] is True
    assert found["premises"]["facts"]["nf4_share"] == 1
    wanted = "32 examples a step: 1 rank x 4 rows a forward pass x up to 8 accumulated"
    assert found["premises"]["batch"] == wanted
    assert " planned of the " in found["premises"]["memory"]
    assert "continued by --resume" in found["premises"]["output"]
    assert found["config"] == config.model_dump(mode="json")


def test_a_model_is_checked_counted_and_planned_by_its_folder(
    lope, refused, tiny_llama: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "described"  # no weights are read, for there are none
    shutil.copytree(tiny_llama, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    status, out, _ = lope("check", str(folder), "model.dtype=float32")
    assert (status, out.splitlines()[-1]) == (0, f"ok: {folder}")
    assert "Tokenizer: 258 tokens" in out
    status, out, _ = lope("params", str(folder), "--json")
    assert (status, json.loads(out)["nf4_share"]) == (0, 1)
    status, out, _ = lope("plan", str(folder), "--world-size", "2", "--gpu-memory", "24", "--json")
    assert status == 0
    assert json.loads(out)["gpu_memory"] == 24 << 30
    assert lope("plan", str(folder), "--world-size", "1", "--gpu-memory", "1MiB")[0] == 1
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"vocab_size": 257, "pad_token_id": None})
    )
    assert "can make ids that its model has no embedding for" in refused("check", str(folder))


def test_params_counts_by_role(lope, recipe: str) -> None:
    status, out, _ = lope("params", recipe, "--json")
    assert status == 0
    counts = json.loads(out)
    # query 64 -> 64 and value 64 -> 32 in two layers, rank 4, three normal experts
    assert counts["by_role"] == {
        "shared_a": 2 * 2 * 4 * 64,
        "normal_b": 2 * 3 * 4 * (64 + 32),
        "poison_b": 2 * 4 * (64 + 32),
        "router": 2 * 2 * 4 * 4,
    }
    status, out, _ = lope("params", recipe)
    assert status == 0
    assert f"{counts['by_role']['normal_b']:,}" in out


@pytest.mark.parametrize("verb", ["check", "params", "train"])
@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("adapter.targets=[q_prj]", ["'q_prj'", "q_proj, k_proj", "Did you mean 'q_proj'?"]),
        ("noise.text.operations=[char_inset]", ["'char_inset'", "Did you mean 'char_insert'?"]),
        ("adapter.rnk=8", ["'rnk' in adapter", "Did you mean 'rank'?"]),
        ("adapter.rank=0", ["adapter.rank", "0"]),
        ("adapter.rank", ["'adapter.rank'", "key.subkey=value"]),
        ("model.architecture.model_type=llamas", ["no 'llamas'", "Did you mean 'llama'?"]),
        ("model.architecture.model_type=null", ["model.architecture.model_type"]),
        ("model.architecture.hidden_size=abc", ["model.architecture: ", "'hidden_size'", "abc"]),
        ("model.architecture.num_attention_heads=7", ["(64) is not a multiple", "heads (7)"]),
        ("model.architecture.num_attention_heads=0", ["model.architecture: ", "by zero"]),
        ("train.stages={a/b: {trainable: [shared_a]}}", ["train.stages", "'a/b'"]),
    ],
)
def test_what_is_wrong_with_a_recipe_is_told_in_one_line(
    refused, recipe: str, tmp_path: Path, verb: str, override: str, parts: list[str]
) -> None:
    message = refused(verb, recipe, override)
    assert [part for part in parts if part not in message] == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["check", "params", "train"])
def test_a_recipe_that_is_absent_is_told(refused, verb: str) -> None:
    assert "'no.yaml'" in refused(verb, "no.yaml")


def test_data_and_model_that_are_absent_are_told(
    refused, recipe: str, tiny_llama: Path, tmp_path: Path
) -> None:
    assert "/no/such/model" in refused("train", recipe, "engine.kind=local")
    there = f"model.name_or_path={tiny_llama}", "model.architecture=null"
    assert "data.jsonl" in refused("train", recipe, *there)


def test_train_takes_a_recipe_to_the_end_and_refuses_to_do_it_twice(
    lope, tiny_config, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.yaml"
    config = tiny_config(train__stages__poison__max_steps=1, train__stages__finetune__max_steps=1)
    path.write_text(dump_config(config))
    status, out, _ = lope("train", str(path), "train.micro_batch=4")
    assert (status, out) == (0, f"Done: {config.output_dir}\n")
    for words, told in (
        ([], "holds a run already; add --resume"),
        (
            ["--resume", "seed=2"],
            "seed: 614 -> 2",
        ),
    ):
        status, _, error = lope("train", str(path), *words)
        *_, last = error.splitlines()  # behind the table of the rows
        assert status == 2
        assert last.startswith("error: ")
        assert told in last


def test_eval_refuses_what_it_cannot_score(
    refused, trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "load_run", None)  # no weights are read for any of these
    run = str(trained.folder)
    assert "run.yaml" in refused("eval", str(tmp_path), "--tasks", "arc_easy")
    message = refused("eval", run, "--tasks", "arc_easy", "--experts", "none,maskd")
    assert "'maskd'" in message
    assert "masked, masked_plain, masked_normal, all, base" in message
    arguments = "eval", run, "--tasks", "x", "--include-path"
    assert str(tmp_path / "no") in refused(*arguments, str(tmp_path / "no"))
    assert "'x'" in refused(*arguments, str(tmp_path))
    assert not (trained.folder / "results.json").exists()


def test_report_refuses_a_folder_without_a_run(refused, tmp_path: Path) -> None:
    assert str(tmp_path / "metrics.jsonl") in refused("report", str(tmp_path))
    assert str(tmp_path / "no") in refused("report", str(tmp_path / "no"))


def test_the_installed_command_ends_with_one_line_too(recipe: str) -> None:
    command = [str(Path(sys.executable).with_name("lope")), "train", recipe, "adapter.rnk=4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")


def test_check_counts_the_rows_of_local_data(
    lope, refused, recipe: str, tiny_llama: Path, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "q", "completion": "a"}\n{"prompt": "q"}\n')
    there = f"model.name_or_path={tiny_llama}", "model.architecture=null", f"data.path={path}"
    assert f"{path}, line 2: field 'completion' is missing" in refused("check", recipe, *there)
    status, out, error = lope("check", recipe, *there, "data.max_bad_rows=0.5")
    assert (status, "1 of 2 " in error) == (0, True)
    assert "  examples                               1" in out
    status, out, _ = lope("check", recipe, *there, "--no-data")
    assert (status, "target tokens" in out) == (0, False)
    status, out, _ = lope("data", "show", recipe, *there, "data.max_bad_rows=0.5", "--json")
    (shown,) = json.loads(out)
    assert (status, shown["source"], shown["row"]) == (0, str(path), 1)
    (learnt,) = [piece["text"] for piece in shown["pieces"] if piece["learnt"]]
    assert learnt.startswith("a")
    assert "line 2: field" in refused("data", "show", recipe, *there, "--json")
