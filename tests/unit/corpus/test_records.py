import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lope_dist.config.data import DataConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.examples.source import Example, Turn, open_source

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yo"},
]


def open_path(path, **keys):
    return open_source(DataConfig(path=str(path), **keys))


def write_as(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text("\n".join(json.dumps(r) for r in rows) + "\n\n")
    return path


def test_a_split_of_a_file_is_refused(tmp_path, rows):
    path = write_as(tmp_path / "data.jsonl", rows)
    with pytest.raises(LopeError, match=r"data\.split = 'test'"):
        open_path(path, split="test")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_every_form_gives_the_same_examples(tmp_path, suffix, rows):
    source = open_path(write_as(tmp_path / f"data{suffix}", rows))
    assert len(source) == 7
    for i, row in enumerate(rows):
        assert source[i] == Example(
            i,
            (Turn("user", row["instruction"], row["input"]), Turn("assistant", row["output"])),
        )
    reference = open_path(write_as(tmp_path / "reference.jsonl", rows))
    assert source.fingerprint == reference.fingerprint
    with pytest.raises(IndexError):
        source[7]


def test_files_of_a_glob_are_joined_in_sorted_order(tmp_path, rows):
    write_as(tmp_path / "b.parquet", rows[3:])
    write_as(tmp_path / "a.jsonl", rows[:3])
    source = open_path(tmp_path / "*.*")
    assert [source[i].turns[1].text for i in range(7)] == [r["output"] for r in rows]
    assert [source[i].id for i in range(7)] == list(range(7))
    assert source.fingerprint == open_path(write_as(tmp_path / "all.json", rows)).fingerprint
    first = open_path(tmp_path / "?.*", max_examples=4)
    assert len(first) == 4
    assert first.fingerprint != source.fingerprint


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_messages(tmp_path, suffix):
    source = open_path(write_as(tmp_path / f"chat{suffix}", [{"messages": CHAT}]))
    assert source[0].turns == (
        Turn("system", "Be brief."),
        Turn("user", "hi"),
        Turn("assistant", "yo"),
    )


def test_input_is_optional_and_may_be_null(tmp_path):
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "a", "input": None, "output": "b"}]
    source = open_path(write_as(tmp_path / "x.jsonl", rows))
    assert source[0].turns == source[1].turns == (Turn("user", "a"), Turn("assistant", "b"))


GOOD = {"instruction": "a", "output": "b"}
BAD_ROWS = [
    ({"instruction": "a"}, "field 'output' is missing"),
    ({"instruction": 3, "output": "b"}, "field 'instruction' must be a string, not int"),
    ({"instruction": "a", "input": ["x"], "output": "b"}, "field 'input' must be a string"),
    ({"instruction": "a", "output": None}, "field 'output' must be a string, not null"),
    ({"instruction": "a", "output": " \n"}, "output is empty.*allow_empty_response=true"),
    (["a", "b"], "must be an object, not list"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_ROWS)
def test_a_bad_row_is_named(tmp_path, bad, reason):
    path = write_as(tmp_path / "bad.jsonl", [GOOD, GOOD, bad])
    with pytest.raises(LopeError, match=rf"bad\.jsonl, line 3: .*{reason}"):
        open_path(path)
    path = write_as(tmp_path / "bad.json", [GOOD, bad])
    with pytest.raises(LopeError, match=rf"bad\.json, row 2: .*{reason}"):
        open_path(path)


def test_a_bad_row_of_parquet_is_named(tmp_path):
    path = write_as(tmp_path / "bad.parquet", [GOOD, GOOD, {"instruction": "a", "output": ""}])
    with pytest.raises(LopeError, match=r"bad\.parquet, row 3: output"):
        open_path(path)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "list of"),
        ("hi", "messages .*JSON"),
        (["hi"], "message 1 .* not str"),
        (CHAT[:2], "'user'.* assistant"),
        ([*CHAT, {"role": "narrator", "content": "x"}], "message 4 is 'narrator'"),
        ([{"role": "user"}, CHAT[2]], "field 'content' of message 1 is missing"),
        ([CHAT[1], {"role": "assistant", "content": ""}], "data.allow_empty_response"),
    ],
)
def test_bad_messages_are_named(tmp_path, messages, reason):
    path = write_as(tmp_path / "bad.jsonl", [{"messages": CHAT}, {"messages": messages}])
    with pytest.raises(LopeError, match=rf"line 2: .*{reason}"):
        open_path(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"instruction": "a", ', "not valid JSON"),
        (b'{"instruction": "a", "output": "\xff"}', "not valid UTF-8"),
        (b'{"instruction": "a", "output": "\\ud800"}', "surrogate"),
        (b"[" * 100_000, "JSON: nested"),
    ],
)
def test_a_bad_line_is_named_and_blank_lines_count(tmp_path, line, reason):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + line)
    with pytest.raises(LopeError, match=rf"line 3: .*{reason}"):
        open_path(path)


def test_an_empty_response_can_be_kept(tmp_path):
    path = write_as(tmp_path / "x.jsonl", [{"instruction": "a", "output": ""}])
    assert open_path(path, allow_empty_response=True)[0].turns[1].text == ""


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert len(open_path(path)) == 1


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.jsonl", b"", "data.path = .*/x.jsonl'"),
        ("x.json", b"[]", "data.path = .*/x.json'"),
        ("x.json", b'{"a": 1}', "x.json .*'{'"),
        (
            "x.json",
            b'[{"instruction": "a", "output": "b"} {"instruction": "a", "output": "b"}]',
            "line 1: not valid JSON: ',' or ']' is missing",
        ),
        ("x.json", b'[\n{"instruction": "a", "output": "b"},\n]', "line 3: not valid JSON"),
        (
            "x.json",
            b'[{"instruction": "a", "output": "b"}',
            "not valid JSON: ',' or ']' is missing",
        ),
        ("x.json", b'[{"instruction": "a", "output": "b"}] 1', "x.json, line 1: .*JSON"),
        ("x.json", b"[" * 100_000, "x.json, line 1: .*nested"),
        ("x.parquet", b"junk", "x.parquet .*Parquet"),
        ("x.arrow", b"junk", "x.arrow .*Arrow"),
        ("x.csv", b"", "data.path = .*/x.csv'"),
        ("x.csv", b"a,a\n1,2\n", "x.csv: .* a, a"),
        ("x.csv", b'"a"b,c\n1,2\n', "not valid CSV"),
        ("x.jsonl.gz", b"junk", "not a readable JSON Lines file: .*incorrect header"),
        ("x.jsonl.zst", b"junk", "not a readable JSON Lines file"),
        ("x.xlsx", b"a,b", r"suffix '\.xlsx'; allowed: \.json, \.jsonl, .* \.parquet"),
        ("x.tar.gz", b"a,b", r"suffix '\.tar\.gz'; allowed"),
        ("x.jsonl", b'{"question": "a", "answer": "b"}', "answer, question; data.format=alpaca"),
        (
            "x.jsonl",
            b'{"instruction": "a", "output": "b", "messages": []}',
            "set data.format",
        ),
    ],
)
def test_bad_files_are_explained(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LopeError, match=reason):
        open_path(tmp_path / name)


@pytest.mark.parametrize(
    "path", ["missing.jsonl", "./missing", "/nowhere/x", "missing/*", "a[bc].txt", "~/missing-x"]
)
def test_a_missing_path_is_never_asked_of_the_hub(monkeypatch, path):
    monkeypatch.setattr(
        datasets, "load_dataset_builder", lambda *a, **k: pytest.fail("asked the hub")
    )
    with pytest.raises(LopeError, match=r"(does not exist|matches no file)"):
        open_path(path)


def test_a_folder_without_data_is_refused(tmp_path, rows):
    write_as(tmp_path / "x.jsonl", rows).rename(tmp_path / "x.xml")
    with pytest.raises(LopeError, match=r"/\*\.jsonl"):
        open_path(tmp_path)
