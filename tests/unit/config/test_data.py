"""`data.path` or `data.sources`, and the settings that belong to either."""

import pytest

from lope_dist.config.load import validate_config
from lope_dist.core.errors import LopeError


def data(**keys):
    tree = {"output_dir": "out", "model": {"name_or_path": "x"}, "data": keys}
    return validate_config(tree, "test").data


def test_a_path_is_one_source():
    config = data(path=["a.jsonl", "b.csv"], columns={"output": "answer"}, max_examples=3)
    (place,) = config.all_sources
    assert (place.path, place.columns) == (("a.jsonl", "b.csv"), {"output": "answer"})
    assert (place.max_examples, place.weight) == (3, 1)


def test_sources_keep_their_own_settings():
    config = data(sources=[{"path": "a", "weight": 2}, {"path": "b", "format": "text"}])
    assert [p.weight for p in config.all_sources] == [2, 1]
    assert [p.format for p in config.all_sources] == ["auto", "text"]


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({}, ["one of data.path and data.sources", "neither is"]),
        ({"path": "a", "sources": [{"path": "b"}]}, ["one of data.path", "both are"]),
        ({"path": 3}, ["data.path", "a string or a list of strings"]),
        ({"path": []}, ["data.path", "not empty"]),
        ({"path": ["a", 3]}, ["data.path", "a list of strings"]),
        ({"sources": [{}]}, ["data.sources.0.path is required"]),
        ({"sources": [{"path": "a", "weight": 0}]}, ["data.sources.0.weight = 0", "How often"]),
        ({"sources": [{"path": "a", "weights": 1}]}, ["'weights' in data.sources.0", "'weight'"]),
        ({"sources": [{"path": "a"}], "format": "text"}, ["data.format has no effect"]),
        ({"sources": [{"path": "a"}], "columns": {"text": "t"}}, ["data.columns has no effect"]),
        ({"sources": [{"path": "a"}], "max_examples": 5}, ["data.max_examples has no effect"]),
        ({"path": "a", "columns": {"outputs": "x"}}, ["outputs", "alpaca: instruction, output"]),
        ({"path": "a", "format": "text", "columns": {"output": "x"}}, ["output", "text: text"]),
        ({"path": "a", "columns": {"output": "x", "text": "y"}}, ["not fields of one format"]),
        (
            {"path": "a", "validation": {"path": "b", "columns": {"weight": "w"}}},
            ["data.validation", "not weighted"],
        ),
        ({"path": "a", "max_bad_rows": 1}, ["data.max_bad_rows = 1", "below 1"]),
        ({"path": "a", "format": "alpca"}, ["mean 'alpaca'"]),
    ],
)
def test_what_does_not_fit_together_is_refused(keys, parts):
    with pytest.raises(LopeError) as caught:
        data(**keys)
    for part in parts:
        assert part in str(caught.value)


def test_rows_that_are_not_trained_on_do_without_a_weight():
    config = data(
        path="a", columns={"output": "answer", "weight": "w"}, validation={"path": "b.jsonl"}
    )
    assert config.has_weights
    for other in (config.of_validation, config.of_file("c.jsonl")):
        assert other is not None
        assert other.columns == {"output": "answer"}
        assert not other.has_weights
