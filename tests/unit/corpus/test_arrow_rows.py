"""Rows of Arrow tables are those of the JSON that they were made of."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.row_files import write_rows

from lope_dist.config.data import DataConfig, SourceConfig
from lope_dist.corpus.examples.source import open_source
from lope_dist.corpus.rows.readers import find_rows
from lope_dist.corpus.rows.turns import Turn


def open_path(path, **keys):
    return open_source(DataConfig(path=str(path), **keys))


MIXED = [
    {"role": "user", "content": [{"type": "text", "text": "two\nlines"}]},
    {"role": "assistant", "content": 'a "word"\nb', "weight": 1},
]
CALLED = [
    {"role": "user", "content": "three\nlines"},
    {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": 1, "b": None}}]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "c\nd"},
]
JSON_COLUMNS = {
    "of a list": [{"messages": MIXED}, {"messages": CALLED}],
    "of a column": [
        {"prompt": "q\nr", "completion": "a\nb"},
        {"prompt": [{"role": "user", "content": "q\nr"}], "completion": "a\nb"},
    ],
    "of a struct": [
        {"messages": MIXED[1:], "tools": [{"name": name, "parameters": {"v": value}}]}
        for name, value in (("f", "x"), ("g", [1, None]), ("h", {"w": None}))
    ],
}


def by_datasets(tmp_path, rows):
    """Return the file of some rows, and what `datasets` makes of it."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cache = str(tmp_path / "hub")
    return path, datasets.load_dataset("json", data_files=str(path), cache_dir=cache)["train"]


@pytest.mark.parametrize("name", JSON_COLUMNS)
def test_columns_of_json_are_parsed(tmp_path, name):
    """`datasets` writes fields of mixed types as Arrow's type JSON."""
    path, data = by_datasets(tmp_path, JSON_COLUMNS[name])
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "rows.parquet")
    assert "Json" in str(data.features)
    rows = [row for reader in find_rows(SourceConfig(path=str(path))) for row in reader.read(list)]
    for other in ("saved", "rows.parquet"):
        readers = find_rows(SourceConfig(path=str(tmp_path / other)))
        assert [row for reader in readers for row in reader.read(list)] == rows
        assert open_path(tmp_path / other).fingerprint == open_path(path).fingerprint


def test_a_value_that_is_no_json_is_a_bad_row(tmp_path):
    storage = pa.array(['"a\\nb"', "{cut"])
    table = pa.table({"text": pa.ExtensionArray.from_storage(pa.json_(), storage)})
    pq.write_table(table, tmp_path / "x.parquet")
    source = open_path(tmp_path / "x.parquet", max_bad_rows=0.5)
    assert source[0].turns == (Turn("assistant", "a\nb"),)
    assert list(source.bad_rows.counts) == ["not valid JSON"]


CALLS = [
    {
        "messages": [
            {"role": "user", "content": "q"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": name, "arguments": arguments}}],
            },
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": name, "parameters": {"properties": {key: {"type": kind}}}},
            }
            for key, kind in zip(arguments, ("string", "number"), strict=False)
        ],
        "note": None,
    }
    for name, arguments in (("weather", {"city": "Oslo"}), ("add", {"x": 1, "y": 2}), ("now", {}))
]


@pytest.mark.parametrize("kind", [".parquet", ".arrow", ".arrows", "hub", "streamed"])
def test_members_that_a_struct_does_not_have_are_absent(tmp_path, monkeypatch, kind):
    """Arrow writes them as nulls; a null in JSON is what somebody wrote."""
    reference = open_path(write_rows(tmp_path / "x.jsonl", CALLS))
    path = tmp_path / f"rows{kind}"
    if kind.startswith("."):
        path = write_rows(path, CALLS)
    else:
        original = datasets.load_dataset_builder
        parquet = write_rows(tmp_path / "rows.parquet", CALLS)

        def load_dataset_builder(name, subset):
            return original(
                "parquet", data_files={"train": str(parquet)}, cache_dir=str(tmp_path / "hub")
            )

        monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
        path = "someone/calls"
    source = open_path(path, streaming=kind == "streamed")
    assert list(source.read()) == list(reference.read())
    (call,) = source[0].turns[1].more["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert list(source[0].tools[0]["function"]["parameters"]["properties"]) == ["city"]
    row = {**CALLS[0], "tools": json.dumps([{"name": "f", "default": None}])}
    as_text = open_path(write_rows(tmp_path / "text.parquet", [row]))
    assert as_text[0].tools[0]["function"] == {"name": "f", "default": None}
