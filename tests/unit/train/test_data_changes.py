"""A run says in its first lines what it does to its data."""

from __future__ import annotations

from lope_dist.config.load import load_config
from lope_dist.train.data_changes import data_changes


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
