"""A run says in its first lines what it does to its data."""

from __future__ import annotations

from lope_dist.config.load import load_config
from lope_dist.corpus.examples.source import open_source
from lope_dist.train.data_changes import data_changes, idle_noise


def test_the_papers_recipe_says_what_it_changes(repository) -> None:
    config = load_config(repository / "configs" / "recipes" / "llama2_7b_alpaca.yaml")
    noise, rows = data_changes(config)
    assert "noise.data changes 5.0% of the words" in noise
    assert "of tatsu-lab/alpaca the first 5,200 rows are used" in rows


def test_a_recipe_for_ones_own_data_has_nothing_to_say(repository) -> None:
    config = load_config(repository / "configs" / "recipes" / "qwen3_8b.yaml")
    assert data_changes(config) == []


def test_each_source_and_wrong_answers_are_told(repository) -> None:
    sources = "data={sources: [{path: a, max_examples: 5}, {path: [b, c], max_examples: 7}]}"
    answers = "noise.data.responses={rate: 0.1, operations: [wrong_label]}"
    path = repository / "configs" / "recipes" / "quickstart.yaml"
    told = data_changes(load_config(path, [sources, "data.path=null", answers]))
    assert "10.0% of the answers as a whole" in told[0]
    assert "of a the first 5 rows" in told[1]
    assert "of b, c the first 7 rows" in told[2]


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
    assert [line.split(" in the first")[0] for line in idle] == [
        "noise.text.operations: 'case_loss' finds nothing to change",
        "noise.text.responses: 'wrong_label' finds nothing to change",
    ]
    calm = tiny_config(**settings, train__stages__poison__noise="none")
    assert idle_noise(calm, source) == []
