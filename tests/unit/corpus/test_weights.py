"""Rows with a weight of their own: how it is read, counted and carried to each label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.corpora import loader_of
from support.corpora import make as make_corpus
from support.row_files import ROW_OF_FORMAT, write_rows

from lope_dist.config.data import DataConfig
from lope_dist.config.noise import NoiseConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role
from lope_dist.corpus.examples.account import table
from lope_dist.corpus.examples.source import ExampleSource, open_source
from lope_dist.corpus.examples.split import num_in_both, split_source
from lope_dist.corpus.feed.loader import StageLoader, batches_of
from lope_dist.corpus.tokens.prompts import Form

COLUMNS = {"weight": "quality"}
ROWS = ROW_OF_FORMAT | {"tokens": {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}}


@pytest.fixture
def open_rows(tmp_path, tokenizer):
    def open_rows(*rows: dict, name: str = "x.jsonl", **keys) -> ExampleSource:
        config = DataConfig(path=str(write_rows(tmp_path / name, rows)), **keys)
        return open_source(config, Form.of(config, tokenizer, is_encoder_decoder=False))

    return open_rows


@pytest.mark.parametrize("name", ROWS)
def test_every_format_has_a_weight_where_it_is_asked_for(open_rows, name):
    rows = [ROWS[name] | {"quality": weight} for weight in (2, 0.1, "0.5", 1)]
    source = open_rows(*rows, columns=COLUMNS)
    assert [source[i].weight for i in range(4)] == [2, 0.1, 0.5, 1]
    assert [example.weight for example in source.read()] == [2, 0.1, 0.5, 1]
    assert source.account.weighted == 3
    plain = open_rows(*(ROWS[name] for _ in range(4)), name="plain.jsonl")
    assert [replace(e, weight=1.0) for e in source.read()] == [*plain.read()]
    assert source.fingerprint != plain.fingerprint
    assert not plain.has_weights


def test_a_column_of_that_name_alone_is_no_weight(open_rows):
    source = open_rows(ROWS["alpaca"] | {"weight": 0.5})
    assert source[0].weight == 1
    assert "columns that are not read: weight" in source.account.unused


@pytest.mark.parametrize("weight", [None, "much", "", -0.1, "nan", "inf", 1e31, True, [1], 10**400])
def test_what_is_no_weight_makes_a_bad_row(open_rows, weight):
    rows = [ROWS["alpaca"] | {"quality": 1.5}, ROWS["alpaca"] | {"quality": weight}]
    with pytest.raises(LopeError, match=r"x\.jsonl.* 2: weight is .* a number from 0 to 1e30"):
        open_rows(*rows, columns=COLUMNS)
    source = open_rows(*rows, columns=COLUMNS, max_bad_rows=0.6)
    assert (len(source), source.bad_rows.counts) == (1, {"wrong weight": 1})


def test_a_row_without_the_column_is_bad(open_rows):
    with pytest.raises(LopeError, match=r"'weight' is missing \(column 'quality'"):
        open_rows(ROWS["alpaca"], columns=COLUMNS)


@pytest.mark.parametrize("name", ROWS)
def test_nothing_is_learnt_of_weight_0(open_rows, name):
    source = open_rows(
        *(ROWS[name] | {"quality": weight} for weight in (0, 1, 0.0)), columns=COLUMNS
    )
    assert (len(source), source.account.not_learnt) == (1, 2)
    if name == "alpaca":  # an empty answer that is not learnt is no bad row
        empty = ROWS[name] | {"output": "", "quality": 0}
        assert len(open_rows(ROWS[name] | {"quality": 1}, empty, columns=COLUMNS)) == 1
    with pytest.raises(LopeError, match=r"data\.path = .*x\.jsonl' .*learnt"):
        open_rows(ROWS[name] | {"quality": 0}, columns=COLUMNS)


def test_the_table_counts_them(open_rows):
    answers = [("ab", 0.5), ("abcdef", 3.0)]  # of bytes, and an end token
    rows = [{"prompt": "q", "completion": a, "quality": w} for a, w in answers]
    account = open_rows(*rows, columns=COLUMNS).account
    assert account.mean_weight == pytest.approx((3 * 0.5 + 7 * 3.0) / 10)
    lines = table(account, open_rows(*rows, columns=COLUMNS).bad_rows, {})
    assert any("weighted" in line and "2.25" in line for line in lines)


def test_which_rows_are_held_out_is_not_a_matter_of_weight(open_rows, tmp_path):
    rows = [{"prompt": f"row {i}", "completion": "a", "quality": i % 3 + 1} for i in range(90)]
    plain = [{key: row[key] for key in ("prompt", "completion")} for row in rows]
    weighted = open_rows(*rows, columns=COLUMNS)
    unweighted = open_rows(*plain, name="plain.jsonl")
    held = [split_source(source, 0.3, seed=5)[1] for source in (weighted, unweighted)]
    texts = [[example.turns for example in source.read()] for source in held]
    assert texts[0] == texts[1]
    assert num_in_both(weighted, unweighted) == 90


WEIGHTS = [0.25, 1.0, 3.0]


def weighted_rows(path: Path, count: int = 22) -> str:
    rows = [
        {
            "instruction": f"Question {i}",
            "output": f"Answer {i} " + "long " * (i % 5),
            "quality": WEIGHTS[i % 3],
        }
        for i in range(count)
    ]
    return str(write_rows(path, rows))


def of_examples(loader, workers: int = 0) -> dict[tuple[int, int], float]:
    """Return step and example -> the one weight of its labels."""
    found = {}
    for step, batches in batches_of(loader, workers=workers):
        for batch in batches:
            assert batch.weights is not None
            assert batch.weights.shape == batch.labels.shape
            starts = batch.noise_mask.bool()
            if "position_ids" in batch.inputs:
                starts = starts & (batch.inputs["position_ids"] == 0)
                numbers = starts.flatten().long().cumsum(0).view_as(starts) - 1
            else:
                numbers = torch.arange(len(starts)).unsqueeze(1).expand_as(starts)
            for n, example in enumerate(batch.example_ids):
                own = batch.weights[(numbers == n) & batch.noise_mask.bool()]
                assert (own == own[0]).all()
                found[step, example] = own[0].item()
    return found


@pytest.fixture
def make_weighted(tokenizer, tmp_path):
    """Return a function that makes a loader over 22 weighted rows; keywords override `data`."""

    def make(rank: int = 0, world_size: int = 1, **keys) -> StageLoader:
        path = weighted_rows(tmp_path / "weighted.jsonl")
        data = {"path": path, "columns": COLUMNS, "max_length": 240} | keys
        config = DataConfig.model_validate(data)
        form = Form.of(config, tokenizer, is_encoder_decoder=False)
        source, stage = open_source(config, form), StageConfig(trainable=(Role.SHARED_A,))
        ranks = {"rank": rank, "world_size": world_size}
        return loader_of(source, tokenizer, stage, ranks=ranks, data=config)

    return make


@pytest.mark.parametrize("packing", [True, False])
def test_each_label_has_the_weight_of_its_example_over_the_mean(make_weighted, packing):
    found = of_examples(make_weighted(packing=packing))
    assert len(found) == 22
    account = make_weighted()._source.account
    assert account.mean_weight != 1
    for (_, example), weight in found.items():
        assert weight == pytest.approx(WEIGHTS[example % 3] / account.mean_weight)
    of_ranks = [of_examples(make_weighted(rank, 2, packing=packing)) for rank in range(2)]
    assert of_ranks[0] | of_ranks[1] == found
    assert of_examples(make_weighted(packing=packing), workers=2) == found


def test_a_built_corpus_has_the_weights_of_its_rows(make_weighted, make_recipe, tmp_path):
    loader, plain = make_weighted(), make_recipe(noise=NoiseConfig(), epochs=0)
    path = loader._data.path
    recipe = make_recipe(noise=NoiseConfig(), epochs=0, path=path, columns=COLUMNS)
    make_corpus(recipe, tmp_path / "built")
    found = of_examples(make_weighted(corpus=str(tmp_path / "built")))
    assert found == of_examples(loader)
    make_corpus(plain, tmp_path / "plain")
    with pytest.raises(LopeError, match=r"data\.path"):
        make_weighted(corpus=str(tmp_path / "plain"))


def test_equal_weights_are_none(make_weighted, tmp_path):
    """Only ratios matter, so nothing is multiplied by 1."""
    rows = [{"instruction": f"q {i}", "output": "a", "quality": 4} for i in range(22)]
    path = str(write_rows(tmp_path / "equal.jsonl", rows))
    loader = make_weighted(path=path)
    assert all(batch.weights is None for _, step in batches_of(loader) for batch in step)
