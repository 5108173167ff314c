"""Bad rows are told with file and line, counted, and left out up to the stated share alone."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.row_files import write_bytes, write_rows

from lope_dist.config.data import DataConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.examples.source import open_source

GOOD = {"instruction": "a", "output": "b"}
LONG = b"x" * (100 << 20)


def open_path(path, **keys):
    return open_source(DataConfig(path=str(path), **keys))


def build(kind: str, bad: bytes) -> bytes:
    """A file of four rows, the third of which is bad."""
    good = b"a,b" if kind == ".csv" else json.dumps(GOOD).encode()
    rows = [good, good, bad, good]
    if kind == ".csv":
        return b"\n".join([b"instruction,output", *rows])
    if kind == ".json":
        return b"[" + b",\n".join(rows) + b"]"
    return b"\n".join(rows)


CASES = [
    (".jsonl", b'{"instruction": "a"}', "missing field", "'output' is missing; the columns are"),
    (".jsonl", b'{"instruction": 3, "output": "b"}', "wrong type", "must be a string, not int"),
    (".jsonl", b'{"instruction": "a", "output": null}', "wrong type", "must be a string, not null"),
    (".jsonl", b'{"instruction": "a", "output": " "}', "empty response", "output is empty"),
    (".jsonl", b'["a"]', "not an object", "must be an object, not list"),
    (".jsonl", b'{"instruction": "a", ', "not valid JSON", r"not valid JSON: .* \(column 22\)"),
    (".jsonl", b"[" * 100_000, "not valid JSON", "nested too deeply"),
    (".jsonl", b'{"output": "\xff"}', "not valid UTF-8", r"not valid UTF-8 \(byte 13"),
    (".jsonl", b'{"instruction": "a", "output": "\\ud800"}', "not valid Unicode", "surrogate"),
    (".jsonl", b'{"output": "' + LONG, "too long", "longer than 64 MiB"),
    (".json", b'{"instruction": "a"}', "missing field", "field 'output' is missing"),
    (".json", b'{"instruction": 3, "output": "b"}', "wrong type", "must be a string, not int"),
    (".json", b'{"instruction": "a", "output": ""}', "empty response", "output is empty"),
    (".json", b'"a"', "not an object", "must be an object, not str"),
    (".json", b'{"instruction": "a", "output": "\xff"}', "not valid UTF-8", "not valid UTF-8"),
    (".csv", b"a", "wrong number of cells", "1 cells under 2 columns"),
    (".csv", b"a,b,c", "wrong number of cells", "3 cells under 2 columns"),
    (".csv", b"a, ", "empty response", "output is empty"),
    (".csv", b"a,\xff", "not valid UTF-8", "not valid UTF-8"),
    (".csv", b'a,"b"c', "not valid CSV", "not valid CSV"),
    (".csv", b"a," + LONG, "too long", "longer than 64 MiB"),
]  # fmt: skip


@pytest.mark.parametrize("codec", ["", ".gz", ".zst"])
@pytest.mark.parametrize(("kind", "bad", "name", "reason"), CASES, ids=range(len(CASES)))
def test_bad_rows_of_text_files(tmp_path, codec, kind, bad, name, reason):
    if codec == ".gz" and LONG in bad:
        pytest.skip("the same as .zst, and slow to write")
    path = write_bytes(tmp_path / f"bad{kind}{codec}", build(kind, bad))
    place = {".jsonl": "line 3", ".json": "row 3", ".csv": "line 4"}[kind]
    check(path, place, name, reason)


def check(path, place, name, reason):
    where = re.escape(f"{path}, {place}")
    with pytest.raises(LopeError, match=rf"^{where}: .*{reason}.*data\.max_bad_rows"):
        open_path(path)
    source = open_path(path, max_bad_rows=0.25)
    assert [(e.id, e.turns[1].text) for e in source.read()] == [(i, "b") for i in range(3)]
    assert (source.bad_rows.counts, source.bad_rows.num_rows) == ({name: 1}, 4)
    ((told, why),) = source.bad_rows.first
    assert re.fullmatch(where, told)
    assert re.search(reason, why)
    assert open_path(path, max_bad_rows=0.25).bad_rows == source.bad_rows, "from the cache"
    with pytest.raises(
        LopeError, match=rf"1 of 4 rows are bad \({name}: 1\), more than .* = 0\.24"
    ):
        open_path(path, max_bad_rows=0.24)


TABLE_CASES = [
    ({"output": None}, "wrong type", "field 'output' must be a string, not null"),
    ({"output": ""}, "empty response", "output is empty"),
    ({"output": "\xff"}, "not valid UTF-8", "not valid UTF-8"),
    ({"output": "x" * (65 << 20)}, "too long", "longer than 64 MiB"),
]


@pytest.mark.parametrize("kind", [".parquet", ".arrow"])
@pytest.mark.parametrize(("change", "name", "reason"), TABLE_CASES, ids=range(len(TABLE_CASES)))
def test_bad_rows_of_tables(tmp_path, kind, change, name, reason):
    if kind == ".parquet" and name == "too long":
        pytest.skip("the same as .arrow, and slow")
    table = pa.Table.from_pylist([GOOD, GOOD, GOOD | change, GOOD])
    if change["output"] == "\xff":  # Arrow does not check what it is given
        raw = pa.array([b"b", b"b", b"\xff", b"b"]).view(pa.string())
        table = table.set_column(1, "output", raw)
    path = tmp_path / f"bad{kind}"
    if kind == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    check(path, "row 3", name, reason)


def test_a_list_cannot_go_on_behind_an_item_that_never_ends(tmp_path):
    path = write_bytes(tmp_path / "x.json", build(".json", b'{"output": "' + LONG))
    with pytest.raises(LopeError, match=r"x\.json, line 3: .* 64 MiB"):
        open_path(path, max_bad_rows=0.9)


def test_a_column_that_a_table_does_not_have_is_told_at_once(tmp_path):
    for suffix in (".parquet", ".csv", ".arrow"):
        path = write_rows(tmp_path / f"x{suffix}", [{"instruction": "a", "answer": "b"}])
        with pytest.raises(LopeError, match=r"'output'.*answer, instruction"):
            open_path(path, format="alpaca", max_bad_rows=0.9)


def test_a_first_row_of_no_format_may_be_left_out(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n' + json.dumps(GOOD))
    with pytest.raises(LopeError, match=r"line 1: .* a; data\.format=alpaca"):
        open_path(path)
    assert open_path(path, max_bad_rows=0.5).bad_rows.counts == {"columns of no format": 1}


def test_quoted_line_breaks_of_csv_do_not_shift_the_lines(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('instruction,output\n"one\ntwo","three\n\nfour"\n\na,\nb,"c\nd",e\n')
    source = open_path(path, max_bad_rows=0.7)
    assert source[0].turns[1].text == "three\n\nfour"
    assert source.bad_rows.first[0][0] == f"{path}, line 7"
    where, reason = source.bad_rows.first[1]
    assert where == f"{path}, line 8"
    assert re.findall(r"\d+", reason) == ["3", "2", "9"], "cells, columns, last line"


def test_an_open_quote_of_csv_is_told(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('instruction,output\na,b\na,"b\na,b\na,b\n')
    with pytest.raises(LopeError, match=r"x\.csv, line 3: "):
        open_path(path)


def test_the_first_bad_rows_are_told_and_the_rest_counted(tmp_path, capsys):
    rows = [GOOD] * 50 + [{"instruction": "a"}] * 20 + [GOOD | {"output": ""}] * 10
    path = write_rows(tmp_path / "x.jsonl", rows)
    source = open_path(path, max_bad_rows=0.5)
    source.bad_rows.tell()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("30 of 80 ")
    assert "(missing field: 20, empty response: 10)" in lines[0]
    assert lines[1].startswith(f"  {path}, line 51: field 'output' is missing")
    assert len(lines) == 22
    assert lines[-1] == "  and 10 more"
    with pytest.raises(LopeError, match=r"30 of 80 .*line 51: .*line 53: "):
        open_path(path, max_bad_rows=0.37)
    open_path(write_rows(tmp_path / "y.jsonl", [GOOD])).bad_rows.tell()
    assert capsys.readouterr().err == ""


def test_bad_rows_are_no_part_of_the_examples(tmp_path):
    other = GOOD | {"output": "c"}
    path = write_rows(tmp_path / "x.jsonl", [GOOD, {}, other, {}, GOOD])
    source = open_path(path, max_bad_rows=0.5, format="alpaca")
    clean = open_path(write_rows(tmp_path / "y.jsonl", [GOOD, other, GOOD]))
    assert source.fingerprint == clean.fingerprint
    first = open_path(path, max_bad_rows=0.5, format="alpaca", max_examples=2)
    assert (len(first), first.bad_rows.num_rows) == (2, 3)


def test_nothing_but_bad_rows_is_an_error(tmp_path):
    path = write_rows(tmp_path / "x.jsonl", [{}, {}])
    with pytest.raises(LopeError, match=r"2 of 2 .*data\.max_bad_rows = 0\.99"):
        open_path(path, max_bad_rows=0.99, format="alpaca")
