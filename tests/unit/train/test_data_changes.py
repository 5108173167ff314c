"""A run says in its first lines what it does to its data."""

from __future__ import annotations

import re

from lope_dist.config.load import load_config
from lope_dist.corpus.examples.source import open_source
from lope_dist.train.premises.data_changes import data_changes, idle_noise, idle_stopping


def test_the_papers_recipe_says_what_it_changes(repository) -> None:
    config = load_config(repository / "configs" / "recipes" / "llama2_7b_alpaca.yaml")
    noise, rows = data_changes(config)
    assert re.search(r"noise\.data .*5\.0%", noise)
    assert re.search(r"tatsu-lab/alpaca .*5,200 rows", rows)


def test_a_recipe_for_ones_own_data_has_nothing_to_say(repository) -> None:
    config = load_config(repository / "configs" / "recipes" / "qwen3_8b.yaml")
    assert data_changes(config) == []


def test_each_source_and_wrong_answers_are_told(repository) -> None:
    sources = "data={sources: [{path: a, max_examples: 5}, {path: [b, c], max_examples: 7}]}"
    answers = "noise.data.responses={rate: 0.1, operations: [wrong_label]}"
    path = repository / "configs" / "recipes" / "quickstart.yaml"
    told = data_changes(load_config(path, [sources, "data.path=null", answers]))
    for line, figures in zip(told, ("10.0%", " a .* 5 rows", " b, c .* 7 rows"), strict=True):
        assert re.search(figures, line)


def test_noise_that_finds_nothing_is_told(tiny_config, tmp_path) -> None:
    """Chinese has no capital letters, and an answer alone in its data set no other one."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "请说你好", "output": "你好世界"}\n')
    noise = {
        "rate": 0.05,
        "operations": {"case_loss": 1.0, "char_delete": 1.0},
        "responses": {"rate": 0.1, "operations": ["wrong_label", "truncate"]},
    }
    settings = {"data__path": str(path), "noise": {"text": noise}}
    config = tiny_config(**settings)
    source = open_source(config.data)
    idle = idle_noise(config, source)
    assert [re.findall(r"^(\S+): '(\w+)'", line) for line in idle] == [
        [("noise.text.operations", "case_loss")],
        [("noise.text.responses", "wrong_label")],
    ]
    calm = tiny_config(**settings, train__stages__poison__noise="none")
    assert idle_noise(calm, source) == []


def test_stages_that_are_over_before_they_could_be_stopped_are_told(tiny_config) -> None:
    """Three evaluations end one at the earliest: after the 6th of 7 steps, and at the 6th of 6."""
    config = tiny_config(
        data__validation={"share": 0.2},
        train__evaluate={"every_steps": 2},
        train__early_stopping={"patience": 2},
    )
    assert idle_stopping(config, {"poison": 5, "finetune": 7}) == []
    (told,) = idle_stopping(config, {"poison": 5, "finetune": 6})
    assert re.search(r"train\.early_stopping .*step 6, .*finetune \(6 steps\)", told)
    assert "poison" not in told, "it trains nothing of what is watched"
    never = config.train.model_copy(update={"early_stopping": None})
    assert idle_stopping(config.model_copy(update={"train": never}), {"finetune": 1}) == []
