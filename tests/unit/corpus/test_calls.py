"""Tool calls keep the order of their members: a row's hash, and what templates dump, hang on it."""

import json

import pytest

from lope_dist.corpus.rows.messages import calls_of


@pytest.mark.parametrize(
    ("call", "function"),
    [
        ({"arguments": {"a": 1}, "name": "f"}, {"arguments": {"a": 1}, "name": "f"}),
        (
            {"name": "f", "parameters": '{"a": 1}', "id": 2},
            {"name": "f", "arguments": {"a": 1}, "id": 2},
        ),
        (
            {"name": "f", "arguments": None, "parameters": {"a": 1}},
            {"name": "f", "arguments": {"a": 1}},
        ),
        ({"name": "f", "arguments": None, "id": 2}, {"name": "f", "arguments": {}, "id": 2}),
        ({"name": "f"}, {"name": "f", "arguments": {}}),
    ],
)
def test_arguments_are_an_object_in_their_place(call, function):
    (made,) = calls_of([call], "")
    assert json.dumps(made["function"]) == json.dumps(function)
