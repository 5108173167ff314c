"""Rows held out for validation: drawn by seed and text; what is left is as a file of its own."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from lope_dist.config.data import DataConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.examples.source import ExampleSource, open_source
from lope_dist.corpus.examples.split import num_in_both, split_source
from lope_dist.corpus.feed.mixture import Mixture


def write(path: Path, texts: list[str]) -> Path:
    rows = [{"instruction": text, "output": f"answer to {text}"} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def opened(*paths: Path) -> ExampleSource:
    return open_source(DataConfig.model_validate({"sources": [{"path": str(p)} for p in paths]}))


def texts_of(source: ExampleSource) -> list[str]:
    assert [source[i].id for i in range(len(source))] == list(range(len(source)))
    assert [example.turns for example in source.read()] == [
        source[i].turns for i in range(len(source))
    ]
    return [example.turns[0].text for example in source.read()]


def test_two_parts_of_all_rows_in_order(tmp_path: Path) -> None:
    first = [f"row {i}" for i in range(300)]
    second = [f"other {i}" for i in range(40)]
    source = opened(write(tmp_path / "a.jsonl", first), write(tmp_path / "b.jsonl", second))
    rest, held = split_source(source, 0.2, seed=7)
    kept, out = texts_of(rest), texts_of(held)
    assert sorted(kept + out) == sorted(first + second)
    assert [t for t in first + second if t in set(kept)] == kept
    assert 0.1 < len(out) / 340 < 0.3
    of_second = [t for t in kept if t.startswith("other")]
    assert rest.sizes == (len(kept) - len(of_second), len(of_second))
    assert (held.sizes, held.weights) == ((len(out),), (1,))
    assert [e.turns[0].text for e in rest.read(5, 9)] == kept[5:9]
    assert texts_of(pickle.loads(pickle.dumps(rest))) == kept
    alone = opened(
        write(tmp_path / "c.jsonl", [t for t in kept if t.startswith("row")]),
        write(tmp_path / "d.jsonl", [t for t in kept if t.startswith("other")]),
    )
    assert rest.fingerprint == alone.fingerprint
    place = rest.location(len(rest) - 1)
    assert place[0].endswith("b.jsonl")
    assert rest.first_of_row(rest._where(3)[1]) == 3


def test_a_source_of_few_rows_may_give_none(tmp_path: Path) -> None:
    many, few = ([f"{name} {i}" for i in range(n)] for name, n in (("row", 600), ("other", 12)))
    source = opened(write(tmp_path / "a.jsonl", many), write(tmp_path / "b.jsonl", few))
    parts = [split_source(source, 0.05, seed) for seed in range(6)]
    assert any(not set(few) & set(texts_of(held)) for _, held in parts)
    for _, held in parts:
        mixture = Mixture(held.sizes, held.weights, 0, shuffle=False)
        assert mixture.example_ids(0, np.arange(len(held))).tolist() == [*range(len(held))]


def test_a_row_keeps_its_side_whatever_is_beside_it(tmp_path: Path) -> None:
    texts = [f"row {i}" for i in range(200)]
    longer = [*texts[::-1], *(f"new {i}" for i in range(50)), *texts[:20]]
    out = set(texts_of(split_source(opened(write(tmp_path / "a.jsonl", texts)), 0.3, 1)[1]))
    source = opened(write(tmp_path / "b.jsonl", longer))
    rest, held = split_source(source, 0.3, 1)
    assert {t for t in texts_of(held) if t.startswith("row")} == out
    assert not set(texts_of(held)) & set(texts_of(rest)), "equal rows are on one side"
    assert set(texts_of(split_source(source, 0.3, 2)[1])) != set(texts_of(held))
    assert num_in_both(rest, held) == 0
    assert num_in_both(source, held) == len(held)


def test_too_few_rows_are_told(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "a.jsonl", ["one", "two"]))
    with pytest.raises(LopeError, match=r"share = 1e-09 of 2 "):
        split_source(source, 1e-9, 0)
    with pytest.raises(LopeError, match=r"data\.validation\.share = 1 .*a\.jsonl"):
        split_source(source, 1 - 1e-9, 0)
