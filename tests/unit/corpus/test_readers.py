"""The same rows in every form of file give the same examples."""

import json
import subprocess
import sys

import datasets
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.row_files import LINE_SUFFIXES, TABLE_SUFFIXES, write_bytes, write_rows

from lope_dist.config.data import DataConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.examples.source import open_source
from lope_dist.corpus.rows.turns import Turn

ODD = 'tab\t "quoted", comma,\nline two\u2028no line\x85nor this\r\né \U0001f469\u200d\U0001f467'


def open_path(path, **keys):
    return open_source(DataConfig(path=str(path), **keys))


@pytest.fixture
def odd_rows(rows):
    rows[2] |= {"instruction": ODD, "output": ODD}
    return [*rows, *rows]


@pytest.mark.parametrize("suffix", LINE_SUFFIXES + TABLE_SUFFIXES)
def test_every_form_gives_the_same_examples(tmp_path, suffix, odd_rows):
    source = open_path(write_rows(tmp_path / f"data{suffix}", odd_rows))
    assert len(source) == len(odd_rows)
    examples = list(source.read())
    for i in (*range(len(odd_rows)), 3, 0):
        row = odd_rows[i]
        user = Turn("user", row["instruction"], row["input"])
        assert source[i].turns == (user, Turn("assistant", row["output"]))
        assert source[i] == examples[i]
        assert source[i].id == i
    assert list(source.read(4, 9)) == examples[4:9]
    assert list(source.read(10)) == examples[10:]
    assert list(source.read(5, 5)) == []
    with pytest.raises(IndexError):
        source[len(odd_rows)]
    reference = open_path(write_rows(tmp_path / "reference.jsonl", odd_rows))
    assert source.fingerprint == reference.fingerprint
    first = open_path(tmp_path / f"data{suffix}", max_examples=5)
    assert list(first.read()) == examples[:5]
    assert first.fingerprint != source.fingerprint


CONVERSATION = [("system", "Be brief."), ("user", "hi"), ("assistant", "yo")]


@pytest.mark.parametrize("suffix", [".jsonl", ".json.gz", ".parquet", ".arrow", ".arrows"])
@pytest.mark.parametrize(
    ("field", "role", "text"), [("messages", "role", "content"), ("conversations", "from", "value")]
)
def test_conversations(tmp_path, suffix, field, role, text):
    names = {"user": "human", "assistant": "gpt"} if role == "from" else {}
    row = {field: [{role: names.get(who, who), text: said} for who, said in CONVERSATION]}
    source = open_path(write_rows(tmp_path / f"chat{suffix}", [row, row]))
    assert source[1].turns == tuple(Turn(who, said) for who, said in CONVERSATION)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_lines_of_a_text_file_are_documents(tmp_path, suffix):
    path = write_bytes(
        tmp_path / f"x.txt{suffix}", "\ufeffone é\u2028still\r\n\n  \n two\n".encode()
    )
    source = open_path(path)
    assert [e.turns for e in source.read()] == [
        (Turn("assistant", "one é\u2028still"),),
        (Turn("assistant", " two"),),
    ]
    assert source[0].is_plain
    lines = [{"text": "one é\u2028still"}, {"text": " two"}]
    assert open_path(write_rows(tmp_path / "x.jsonl", lines)).fingerprint == source.fingerprint


def test_members_of_a_gzip_file_follow_each_other(tmp_path, rows):
    a = write_rows(tmp_path / "a.jsonl.gz", rows[:3]).read_bytes()
    b = write_rows(tmp_path / "b.jsonl.gz", rows[3:]).read_bytes()
    (tmp_path / "c.jsonl.gz").write_bytes(a + b)
    whole = open_path(write_rows(tmp_path / "whole.csv", rows))
    assert open_path(tmp_path / "c.jsonl.gz").fingerprint == whole.fingerprint
    (tmp_path / "c.jsonl.gz").write_bytes((a + b)[:-3])
    with pytest.raises(LopeError, match=r"c\.jsonl\.gz .*Truncated"):
        open_path(tmp_path / "c.jsonl.gz")


def test_a_list_of_paths_is_read_in_its_order(tmp_path, rows):
    b = write_rows(tmp_path / "b.csv", rows[:2])
    write_rows(tmp_path / "a1.jsonl", rows[2:4])
    write_rows(tmp_path / "a2.parquet", rows[4:])
    source = open_source(DataConfig(path=(str(b), str(tmp_path / "a*"))))
    whole = open_path(write_rows(tmp_path / "whole.jsonl", rows))
    assert source.fingerprint == whole.fingerprint
    with pytest.raises(LopeError, match=r"names .*a1\.jsonl twice"):
        open_source(DataConfig(path=(str(tmp_path / "a*"), str(tmp_path / "a1.jsonl"))))


def test_splits_of_a_saved_folder(tmp_path, rows):
    parts = {
        "train": datasets.Dataset.from_list(rows[:5]),
        "test": datasets.Dataset.from_list(rows[5:]),
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert (
        len(open_path(tmp_path / "saved")),
        len(open_path(tmp_path / "saved", split="test")),
    ) == (5, 2)
    with pytest.raises(LopeError, match=r"data\.split = 'dev' .* train, test"):
        open_path(tmp_path / "saved", split="dev")
    with pytest.raises(LopeError, match=r"data\.split = 'dev' .*saved/train"):
        open_path(tmp_path / "saved" / "train", split="dev")


def test_an_arrow_stream(tmp_path, rows):
    table = pa.Table.from_pylist(rows)
    with (
        pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table)
    assert len(open_path(tmp_path / "x.arrow")) == len(rows)


@pytest.fixture
def hub(tmp_path, monkeypatch, rows):
    """The data set `someone/alpaca`, which is really a local one, loaded by `datasets` itself."""
    folder = tmp_path / "local"
    folder.mkdir()
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "test.jsonl", rows[:4])
    monkeypatch.setenv("LOPE_DATA_CACHE", str(tmp_path / "stores"))
    original, asked = datasets.load_dataset_builder, []

    def load_dataset_builder(name, subset):
        asked.append((name, subset))
        return original(str(folder), subset, cache_dir=str(tmp_path / "hub"))

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    return asked


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hub_data_set(hub, tmp_path, rows, streaming):
    source = open_path("someone/alpaca", split="test", streaming=streaming)
    assert hub == [("someone/alpaca", None)]
    assert len(source) == 4
    reference = write_rows(tmp_path / "x.jsonl", rows)
    whole = open_path("someone/alpaca", streaming=streaming)
    assert whole.fingerprint == open_path(reference).fingerprint
    first = open_path("someone/alpaca", streaming=streaming, max_examples=3)
    assert first.fingerprint == open_path(reference, max_examples=3).fingerprint
    assert bool(list((tmp_path / "hub").rglob("*.arrow"))) != streaming  # downloaded whole
    with pytest.raises(LopeError, match=r"split 'dev'\): (Bad|Unknown) split"):
        open_path("someone/alpaca", streaming=streaming, split="dev")
    with pytest.raises(LopeError, match=r"'x' of data\.columns.* input, instruction, output"):
        open_path("someone/alpaca", streaming=streaming, columns={"output": "x"}, format="alpaca")


def test_streaming_fetches_no_more_rows_than_wanted(hub, monkeypatch):
    taken = []
    original = datasets.IterableDataset.__iter__

    def counted(self):
        for row in original(self):
            taken.append(row)
            yield row

    monkeypatch.setattr(datasets.IterableDataset, "__iter__", counted)
    assert len(open_path("someone/alpaca", streaming=True, max_examples=3)) == 3
    assert len(taken) == 3


def test_a_hub_failure_is_one_sentence(monkeypatch):
    def load_dataset_builder(name, subset):
        raise ConnectionError("no route\nmore lines")

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    with pytest.raises(LopeError, match=r"'someone/alpaca' .*: no route\.$"):
        open_path("someone/alpaca")


@pytest.mark.parametrize("key", [{"streaming": True}, {"subset": "main"}])
def test_settings_of_the_hub_are_refused_with_files(tmp_path, rows, key):
    write_rows(tmp_path / "x.jsonl", rows)
    with pytest.raises(LopeError, match=rf"data\.{next(iter(key))} = .*x\.jsonl'"):
        open_path(tmp_path / "x.jsonl", **key)


texts = st.text(st.characters(exclude_categories=["Cs"]))
some_rows = st.lists(
    st.fixed_dictionaries({"instruction": texts, "input": texts, "output": texts}), min_size=1
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=some_rows, escape=st.booleans(), end=st.sampled_from(["\n", "\r\n"]), bom=st.booleans())
def test_any_text_survives(tmp_path, rows, escape, end, bom):
    start = "\ufeff" if bom else ""
    lines = [json.dumps(row, ensure_ascii=escape) for row in rows]
    write_bytes(tmp_path / "x.jsonl", (start + end.join(lines)).encode())
    write_bytes(tmp_path / "x.json.gz", (start + f"[{','.join(lines)}]{end}").encode())
    write_rows(tmp_path / "x.csv", rows)
    write_rows(tmp_path / "x.parquet", rows)
    expected = [
        (Turn("user", r["instruction"], r["input"]), Turn("assistant", r["output"])) for r in rows
    ]
    for name in ("x.jsonl", "x.json.gz", "x.csv", "x.parquet"):
        source = open_path(tmp_path / name, allow_empty_response=True)
        assert [e.turns for e in source.read()] == expected, name


def test_files_alone_do_not_import_datasets(tmp_path, rows):
    path = write_rows(tmp_path / "x.parquet", rows)
    code = (
        "import sys; from lope_dist.corpus.examples.source import open_source; "
        "from lope_dist.config.data import DataConfig; "
        "open_source(DataConfig(path=sys.argv[1])); assert 'datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
