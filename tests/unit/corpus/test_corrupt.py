import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lope_dist.config.data import DataConfig
from lope_dist.config.noise import DataNoiseConfig, NoiseConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.corrupt import corrupt_file
from lope_dist.corpus.examples.source import open_source
from lope_dist.corpus.tokens.views import stage_views

ROWS = [
    {
        "instruction": f"Tell me Something about the Number {i}.",
        "input": "" if i % 2 else f"Context with several words, {i}",
        "output": f"The number {i} is known, of course, for its sum with {i + 1}.",
        "score": i / 7,
        "tags": ["a", str(i)],
    }
    for i in range(300)
]
WORDS = "Some words that stand in a row, with marks and Numbers 12 between them."
CONFIG = DataNoiseConfig.model_validate(
    {"rate": 0.05, "responses": {"rate": 0.1, "operations": ["wrong_label", "truncate"]}}
)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def read(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_rows_columns_and_what_was_done(source, tmp_path, suffix):
    target = tmp_path / f"out{suffix}"
    summary = corrupt_file(source, target, CONFIG, 614, progress=False)
    rows = read(target)
    assert len(rows) == len(ROWS) == summary.rows
    fields = {"instruction": "instruction", "input": "input", "response": "output"}
    total = {}
    for old, new in zip(ROWS, rows, strict=True):
        assert set(new) == {*old, "noise"}
        assert (new["score"], new["tags"]) == (old["score"], old["tags"])
        done = json.loads(new["noise"])
        changed = {name for name, column in fields.items() if old[column] != new[column]}
        assert changed == {entry["field"] for entry in done}
        for entry in done:
            total[entry["operation"]] = total.get(entry["operation"], 0) + entry["count"]
    assert total == summary.hits
    assert summary.rows_hit == sum(row["noise"] != "[]" for row in rows)
    assert 0 < summary.rows_hit < len(rows)
    assert {"wrong_label", "truncate", "word_order"} <= set(total)


def test_it_is_what_training_with_this_noise_would_see(source, tmp_path):
    target = tmp_path / "out.jsonl"
    corrupt_file(source, target, CONFIG, 7, progress=False)
    clean = open_source(DataConfig(path=str(source)))
    views = stage_views(
        [clean[i] for i in range(len(clean))],
        clean,
        NoiseConfig(data=CONFIG),
        injects_text=False,
        seed=7,
        epoch=3,
    )
    written = open_source(DataConfig(path=str(target)))
    assert [written[i] for i in range(len(written))] == [view.example for view in views]


def test_conversations_and_parquet_types_are_kept(tmp_path):
    messages = [
        {"role": "system", "content": "Be kind to all the people."},
        {"role": "user", "content": "What is the weather like in the town?"},
        {"role": "assistant", "content": "It rains a lot in there, as ever."},
        {"role": "user", "content": "And what about the day after this one?"},
        {"role": "assistant", "content": "It will rain on that day too, I fear."},
    ]
    table = pa.table({"messages": [messages] * 40, "n": pa.array(range(40), pa.int16())})
    pq.write_table(table, tmp_path / "in.parquet")
    corrupt_file(tmp_path / "in.parquet", tmp_path / "out.parquet", CONFIG, 1, progress=False)
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.schema.field("n").type == pa.int16()
    rows = written.to_pylist()
    assert all(row["messages"][0] == messages[0] for row in rows)
    for row in rows:
        changed = {i for i, m in enumerate(row["messages"]) if m != messages[i]}
        assert changed == {entry["message"] for entry in json.loads(row["noise"])}


def test_rate_0_is_the_same_rows(source, tmp_path):
    corrupt_file(source, tmp_path / "out.jsonl", DataNoiseConfig(), 1, progress=False)
    assert read(tmp_path / "out.jsonl") == [row | {"noise": "[]"} for row in ROWS]


@pytest.mark.parametrize(
    ("target", "config", "words"),
    [
        ("there.jsonl", {}, "exists already"),
        ("out.csv", {}, "suffix '.csv'"),
        ("out.jsonl", {"operations": ["keybord"]}, "'keyboard'"),
        ("out.jsonl", {"operations": ["wrong_label"]}, "responses.operations"),
        ("out.jsonl", {"operations": ["word_drop"], "unit": "character"}, "no unit 'character'"),
    ],
)
def test_errors_write_nothing(source, tmp_path, target, config, words):
    (tmp_path / "there.jsonl").write_text("mine")
    before = sorted(os.listdir(tmp_path))
    config = DataNoiseConfig.model_validate({"rate": 0.1} | config)
    with pytest.raises(LopeError, match=words):
        corrupt_file(source, tmp_path / target, config, 1, progress=False)
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "there.jsonl").read_text() == "mine"


def test_a_corrupted_file_is_not_corrupted_again(source, tmp_path):
    corrupt_file(source, tmp_path / "once.jsonl", CONFIG, 1, progress=False)
    with pytest.raises(LopeError, match="column 'noise' already"):
        corrupt_file(tmp_path / "once.jsonl", tmp_path / "twice.jsonl", CONFIG, 1, progress=False)


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        ({"prompt": WORDS, "completion": WORDS}, lambda r: [r["prompt"], r["completion"]]),
        ({"text": WORDS}, lambda r: [r["text"]]),
        (
            {"conversations": [{"from": "human", "value": WORDS}, {"from": "gpt", "value": WORDS}]},
            lambda r: [m["value"] for m in r["conversations"]],
        ),
    ],
    ids=["prompt", "text", "sharegpt"],
)
def test_every_format_keeps_its_form(tmp_path, row, texts):
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row | {"kept": i}) + "\n" for i in range(40)))
    summary = corrupt_file(source, tmp_path / "out.jsonl", DataNoiseConfig(rate=0.3), 1)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [r["kept"] for r in found] == list(range(40))
    assert all(set(r) == {*row, "kept", "noise"} for r in found)
    assert sum(texts(r) != texts(row) for r in found) > 30
    assert summary.rows_hit == sum(r["noise"] != "[]" for r in found) > 30


def test_a_column_of_json_is_written_as_it_was(tmp_path):
    rows = [{"text": f"A text of some words\nand number {i}", "more": {"a": i}} for i in range(40)]
    storage = {name: [json.dumps(row[name]) for row in rows] for name in ("text", "more")}
    columns = {n: pa.ExtensionArray.from_storage(pa.json_(), pa.array(storage[n])) for n in storage}
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table(columns), source)
    corrupt_file(source, target, CONFIG, 3, progress=False)
    written = pq.read_table(target)
    assert written.schema.field("text").type == pa.json_()
    assert written["more"].to_pylist() == storage["more"]
    texts = [json.loads(text) for text in written["text"].to_pylist()]
    assert any(text != row["text"] for text, row in zip(texts, rows, strict=True))
    assert sum("\n" in text for text in texts) > 30


def test_a_column_that_json_cannot_hold_is_refused_and_kept_in_parquet(tmp_path):
    source = tmp_path / "in.parquet"
    rows = [row | {"image": b"\x89PNG", "score": float("inf")} for row in ROWS[:4]]
    pq.write_table(pa.Table.from_pylist(rows), source)
    with pytest.raises(LopeError, match=r"in\.parquet, row 1: the column 'score'"):
        corrupt_file(source, tmp_path / "out.jsonl", CONFIG, 614, progress=False)
    target = tmp_path / "out.parquet"
    corrupt_file(source, target, CONFIG, 614, progress=False)
    assert [(row["image"], row["score"]) for row in read(target)] == [
        (b"\x89PNG", float("inf"))
    ] * 4
