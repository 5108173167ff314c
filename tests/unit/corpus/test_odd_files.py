"""Files as other programs leave them: encodings, line ends, quotes, numbers, compression."""

import gzip
import json
from datetime import datetime

import pyarrow as pa
import pytest
from support.row_files import write_bytes, write_rows

from lope_dist.config.data import DataConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.examples.source import open_source
from lope_dist.corpus.tokens.prompts import Form

ROWS = [{"instruction": f"é {i}", "output": f"答 {i}"} for i in range(3)]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]


def open_path(path, **keys):
    return open_source(DataConfig(path=str(path), **keys))


def answers(source):
    return [example.turns[-1].text for example in source.read()]


@pytest.fixture
def reference(tmp_path):
    return open_path(write_rows(tmp_path / "reference.jsonl", ROWS)).fingerprint


TABLE = "instruction,output\n" + "".join(f'é {i},"答 {i}"\n' for i in range(3))
FORMS = {
    "x.ndjson": "\n".join(LINES),
    "X.JSONL": "\n".join(LINES),
    "X.JsonL.GZ": "\n".join(LINES),
    "x.JSON": f"[{','.join(LINES)}]",
    "lines.json": "\n".join(LINES),
    "lines.json.zst": "\n\n" + "\n".join(LINES),
    "X.CSV": TABLE,
    "x.tsv": TABLE.replace(",", "\t"),
    "tabs.csv": TABLE.replace(",", "\t"),
    "semicolons.csv": TABLE.replace(",", ";"),
    "x.jsonl.bz2": "\n".join(LINES),
    "mac.jsonl": "\r".join(LINES),
    "mac.csv": TABLE.replace("\n", "\r"),
    "mixed.jsonl": f"{LINES[0]}\r\n{LINES[1]}\r\r\n{LINES[2]}\n",
    "mixed.csv": TABLE.replace("\n", "\r\n", 2),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"]
)
def test_every_form_and_encoding_gives_the_same_examples(tmp_path, reference, name, encoding):
    if "\n\n" in FORMS[name][:2] and encoding in ("utf-16-le", "utf-16-be"):
        pytest.skip("told by its first two characters, which are no line breaks")
    path = tmp_path / name
    content = FORMS[name].encode(encoding)
    if name.lower().endswith(".gz"):
        path.write_bytes(gzip.compress(content))
    else:
        write_bytes(path, content)
    source = open_path(path)
    assert source.fingerprint == reference
    assert (len(source), source.bad_rows.total) == (3, 0)


def test_upper_case_parquet(tmp_path, reference):
    path = write_rows(tmp_path / "x.parquet", ROWS).rename(tmp_path / "X.Parquet")
    assert open_path(path).fingerprint == reference
    assert open_path(tmp_path / "*.Parquet").fingerprint == reference


def test_compressed_more_often_than_the_name_says(tmp_path, reference):
    content = "\n".join(LINES).encode()
    twice = gzip.compress(gzip.compress(content))
    for name in ("x.jsonl.gz", "x.jsonl.gz.gz", "x.jsonl"):
        (tmp_path / name).write_bytes(twice)
        assert open_path(tmp_path / name).fingerprint == reference
    (tmp_path / "y.jsonl.zst").write_bytes(
        pa.compress(gzip.compress(content), "zstd", asbytes=True)
    )
    assert open_path(tmp_path / "y.jsonl.zst").fingerprint == reference
    large = "".join(LINES[0] + "\n" for _ in range(50_000)).encode()
    (tmp_path / "z.jsonl.gz").write_bytes(gzip.compress(gzip.compress(large)))
    assert len(open_path(tmp_path / "z.jsonl.gz")) == 50_000


def test_long_wide_files_are_read_whole(tmp_path):
    rows = [{"instruction": "语" * (n % 900), "output": f"答🙂{n}"} for n in range(3000)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "x.jsonl").write_bytes(lines.encode("utf-16"))
    assert answers(open_path(tmp_path / "x.jsonl")) == [row["output"] for row in rows]
    (tmp_path / "y.jsonl").write_bytes(lines.encode("utf-16")[:-1])
    with pytest.raises(LopeError, match=r"y\.jsonl .*UTF-16"):
        open_path(tmp_path / "y.jsonl")


NUMBERS = [
    ("1" * 5000, "number out of range", "whole number of thousands of digits"),
    ("-" + "9" * 100_000, "number out of range", "whole number of thousands of digits"),
    ("1e999", "number out of range", "the number 1e999 is too large"),
    ("-1.5E+400", "number out of range", "too large"),
    ("NaN", "not valid JSON", "NaN is no JSON number"),
    ("[1, {\"a\": -Infinity}]", "not valid JSON", "-Infinity is no JSON number"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "kind", "reason"), NUMBERS, ids=range(len(NUMBERS)))
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_numbers_that_json_cannot_hold_are_bad_rows(tmp_path, suffix, number, kind, reason):
    bad = f'{{"id": {number}, "instruction": "a", "output": "b"}}'
    lines = [LINES[0], bad, *LINES[1:]]
    text = "\n".join(lines) if suffix == "jsonl" else f"[{','.join(lines)}]"
    path = tmp_path / f"x.{suffix}"
    path.write_text(text)
    with pytest.raises(LopeError, match=rf"x\.{suffix}, (line|row) 2: .*{reason}"):
        open_path(path)
    source = open_path(path, max_bad_rows=0.3)
    assert source.bad_rows.counts == {kind: 1}
    assert answers(source) == [row["output"] for row in ROWS]


def test_large_numbers_that_fit_are_no_matter(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"id": {"7" * 400}, "x": 1e308, "instruction": "a", "output": "b"}}')
    assert len(open_path(path)) == 1


OPEN_QUOTES = {
    "at the end": (["a,b"] * 5 + ['c,"d'] + ["e,f"] * 40, 7, "is never closed"),
    "in the last line": (["a,b", 'c,"d'], 3, "is never closed"),
    "closed by another": (["a,b", 'c,"d', *["e,f"] * 30, 'g,"h"'], 3, "is closed only in line 34"),
    "behind a good cell of lines": (['"a\nb","c', "d,e", "f,g"], 3, "is never closed"),
    "at the start of a line": (['"a,b', "c,d"], 2, "is never closed"),
    "more cells": (["a,b", 'c,"d', *["e,f"] * 9, 'g",h'], 3, "is closed only in line 13"),
}


@pytest.mark.parametrize("name", OPEN_QUOTES)
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_quote_that_swallows_rows_is_an_error_of_the_file(tmp_path, name, delimiter):
    lines, line, how = OPEN_QUOTES[name]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["instruction,output", *lines]).replace(",", delimiter) + "\n")
    for allowed in (0.0, 0.9):
        with pytest.raises(LopeError, match=rf"x\.csv, line {line}: .* opens a cell here {how}"):
            open_path(path, max_bad_rows=allowed)


def test_quotes_inside_cells_are_text(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('instruction,output\n5" pipe,b\na,"say ""hi""\nand go"\n"c"d,e\nf,g\n')
    source = open_path(path, max_bad_rows=0.5)
    assert [e.turns[0].text for e in source.read()] == ['5" pipe', "a", "f"]
    assert source[1].turns[1].text == 'say "hi"\nand go'
    assert source.bad_rows.first == [(f"{path}, line 5", "not valid CSV: ',' expected after '\"'")]


def test_bytes_of_another_encoding_in_a_long_cell_are_one_bad_row(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'instruction,output\na,"b\n\xff\nc"\nd,e\n')
    source = open_path(path, max_bad_rows=0.5)
    assert answers(source) == ["e"]
    assert source.bad_rows.first[0][0] == f"{path}, line 2"
    assert source.bad_rows.counts == {"not valid UTF-8": 1}


@pytest.mark.parametrize("name", ["x.jsonl", "x.txt"])
def test_nul_bytes_are_bad_rows(tmp_path, name):
    good = b'{"text": "a"}\n'
    (tmp_path / name).write_bytes(good * 3 + b"\0" * 400 + b"\n" + good)
    source = open_path(tmp_path / name, max_bad_rows=0.3)
    assert (len(source), source.bad_rows.counts) == (4, {"NUL bytes": 1})


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.csv", "x.tsv", "x.txt", "x.jsonl.gz"])
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_empty_files_hold_no_example(tmp_path, name, content):
    write_bytes(tmp_path / name, content)
    with pytest.raises(LopeError, match=r"data\.path = .*/x\."):
        open_path(tmp_path / name)


@pytest.mark.parametrize("indent", [None, 1])
def test_one_object_in_place_of_a_list_is_told_with_its_keys(tmp_path, indent):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"version": 1, "data": ROWS}, indent=indent))
    with pytest.raises(LopeError, match=r"x\.json .*'{'.* version, data"):
        open_path(path)
    path.write_text("\n".join(json.dumps(row, indent=2) for row in ROWS))
    with pytest.raises(LopeError, match=r"x\.json .*'{'"):
        open_path(path)


def test_bad_rows_of_lines_in_a_json_file_are_told_by_line(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(f"\n{LINES[0]}\n{LINES[1]}\n{{broken\n")
    with pytest.raises(LopeError, match=r"x\.json, line 4: not valid JSON"):
        open_path(path)
    assert len(open_path(path, max_bad_rows=0.5)) == 2


STRAY = 'a,b\nq1,a1\n"q2,a2\nq3,a3\nq4",a4\nq5,a5\n'
TEXT = 'instruction,output\nq1,"one,\ntwo\nthree, four"\n"five, six\nseven",a5\n'


def test_two_stray_quotes_do_not_swallow_the_rows_between_them(tmp_path):
    columns = {"instruction": "a", "output": "b"}
    path = tmp_path / "x.csv"
    path.write_text(STRAY)
    with pytest.raises(LopeError, match=r"x\.csv, lines 3 to 5: "):
        open_path(path, columns=columns, max_bad_rows=0.9)
    wide = "".join(f"{line},x\n" if line else "" for line in STRAY.split("\n"))
    path.write_text(wide.replace("q3,a3,x\n", ""))  # two lines of three columns
    with pytest.raises(LopeError, match="lines 3 to 4"):
        open_path(path, columns=columns, max_bad_rows=0.9)
    path.write_text(TEXT)
    assert answers(open_path(path)) == ["one,\ntwo\nthree, four", "a5"]


def test_values_that_json_has_no_word_for_are_text(tmp_path):
    at = [datetime(2026, 1, 2), None]
    sides = zip(("user", "assistant"), "qa", at, strict=True)
    messages = [{"role": role, "content": text, "at": time} for role, text, time in sides]
    source = open_path(write_rows(tmp_path / "x.parquet", [{"messages": messages}]))
    assert source[0].turns[0].more == {"at": "2026-01-02 00:00:00"}


def test_half_a_surrogate_pair_is_a_bad_row(tmp_path, tokenizer):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "\\ud800"}\n{"text": "b"}\n')
    config = DataConfig(path=str(path), max_bad_rows=0.5)
    source = open_source(config, Form(tokenizer, "chat", 99))
    assert source.bad_rows.counts == {"not valid Unicode": 1}
    assert len(source) == 1
