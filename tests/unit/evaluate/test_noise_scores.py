"""What the passes measure, held against the model asked row by row, and the scores of it."""

from __future__ import annotations

import math

import pytest
import torch
from support.tiny import save_tiny_t5

from lope_dist.corpus.rows.turns import Example, Turn
from lope_dist.corpus.tokens.encode import encode
from lope_dist.corpus.tokens.prompts import Form, render
from lope_dist.evaluate.loaded.load import load_run
from lope_dist.evaluate.loaded.rows import rows_for
from lope_dist.evaluate.losses.examples import open_examples
from lope_dist.evaluate.losses.likelihood import row_losses
from lope_dist.evaluate.noisy_rows.scores import PASSES, SCORES, measure_rows, scores_of
from lope_dist.train.session import train

MADE = ("base", "masked", "all")  # of the whole text


@pytest.fixture(scope="module")
def examples(loaded, alpaca_file) -> list[Example]:
    source = open_examples(loaded.config, str(alpaca_file))
    return [source[i] for i in (0, 3, 6, 12, 21)]


@pytest.fixture(scope="module")
def measured(loaded, examples) -> dict[int, dict]:
    batches = measure_rows(loaded, examples, list(PASSES), batch_size=2)
    return {row["example_id"]: row for rows in batches for row in rows}


@torch.no_grad()
def token_losses_by_hand(run, ids: list[int]) -> torch.Tensor:
    logits = run.model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def form_of(run) -> Form:
    data = run.config.data
    return Form(run.tokenizer, data.template, data.max_length)


def ids_of(run, example: Example) -> list[int]:
    return encode([example], form_of(run))[0].input_ids


def is_said(run, example: Example) -> torch.Tensor:
    """Return which predicted tokens are of the row's texts: by the letters, as tokens are bytes."""
    text = "".join(piece.text for piece in render(example, form_of(run)))
    marked, at = [False] * len(text), 0
    for turn in example.turns:
        for said in filter(None, (turn.text, turn.context)):
            at = text.index(said, at)
            marked[at : at + len(said)] = [True] * len(said)
    assert text.isascii()
    ids = ids_of(run, example)
    end = len(marked) - len("<eos>")
    return torch.tensor([*marked[:end], False][1 : len(ids)])


@pytest.mark.parametrize("name", MADE)
def test_response_losses_are_those_of_lope_loss(loaded, examples, measured, name) -> None:
    loaded.context.answer_as(rows_for([PASSES[name]], loaded.config.adapter)[0])
    for row in row_losses(loaded, examples):
        assert measured[row.example_id]["num_tokens"] == row.num_tokens > 0
        assert measured[row.example_id][f"{name}_loss"] == pytest.approx(row.loss, rel=1e-5)


def test_losses_of_the_whole_text_are_of_what_the_row_says(loaded, examples, measured) -> None:
    losses: dict[str, torch.Tensor] = {}
    for example in examples:
        row = measured[example.id]
        for name in MADE:
            loaded.context.answer_as(rows_for([PASSES[name]], loaded.config.adapter)[0])
            by_hand = token_losses_by_hand(loaded, ids_of(loaded, example))
            losses[name] = by_hand[is_said(loaded, example)]
            assert row[f"{name}_text_loss"] == pytest.approx(float(losses[name].sum()), rel=1e-5)
            assert row[f"{name}_max"] == pytest.approx(float(losses[name].max()), rel=1e-4)
        assert row["num_text_tokens"] == len(losses["all"])
        hardest = losses["masked"].topk(math.ceil(0.1 * len(losses["masked"])))
        assert row["masked_top"] == pytest.approx(float(hardest.values.mean()), rel=1e-4)
        places = is_said(loaded, example).nonzero().flatten()
        assert row["masked_hardest"] == places[hardest.indices].tolist()
        assert 0 < len(places) < len(ids_of(loaded, example)) - 100, "the preamble says nothing"


def test_a_response_alone_is_asked_without_its_instruction(loaded, examples, measured) -> None:
    loaded.context.answer_as(rows_for(["none"], loaded.config.adapter)[0])
    for example in examples:
        row, ids = measured[example.id], ids_of(loaded, example)
        answer = ids[len(ids) - row["num_tokens"] :]
        start = loaded.tokenizer.eos_token_id  # this tokenizer has no other
        losses = token_losses_by_hand(loaded, [start, *answer])
        assert row["alone_loss"] == pytest.approx(float(losses.sum()), rel=1e-5)


def test_scores_are_what_their_names_say(measured) -> None:
    for row in measured.values():
        scores = scores_of(row | {"copies": 2})
        assert set(scores) == set(SCORES)
        assert scores["base_loss"] == pytest.approx(row["base_loss"] / row["num_tokens"])
        gained = row["base_loss"] - row["alone_loss"]
        assert scores["ifd"] == pytest.approx(gained / row["num_tokens"])
        assert scores["base_loss_max"] >= scores["base_loss_top"] > scores["base_text_loss"]
        assert scores["brevity"] == -row["num_tokens"]
        assert all(math.isfinite(value) for value in scores.values())
    assert len({scores_of(row)["ifd"] for row in measured.values()}) == len(measured)


def test_what_an_earlier_version_measured_is_read_on() -> None:
    """It had other passes and scores, which are left alone."""
    row = {"example_id": 3, "num_tokens": 4, "num_text_tokens": 9, "base_loss": 8.0}
    row |= {"base_text_loss": 18.0, "base_top": 3.0, "base_max": 3.0, "gain_top": 0.1}
    scores = scores_of(row)
    assert scores["base_loss"] == scores["base_text_loss"] == 2
    assert not {"ifd", "masked_loss", "gain"} & set(scores)


def test_a_row_without_response_tokens_has_the_scores_of_its_text_alone(loaded) -> None:
    far = Example(3, (Turn("user", "word " * 200), Turn("assistant", "Never read.")))
    ((row,),) = measure_rows(loaded, [far], list(PASSES), batch_size=2)
    scores = scores_of(row | {"copies": 0})
    assert set(scores) == set(SCORES)
    assert scores["base_loss"] is None
    assert scores["ifd"] is None
    assert scores["base_loss_top"] > 0


def test_an_encoder_decoder_is_measured_on_its_answer(tiny_config, alpaca_file, tmp_path) -> None:
    save_tiny_t5(tmp_path / "t5")
    changes = {
        "model__name_or_path": str(tmp_path / "t5"),
        "data__packing": False,
        "data__max_length": 512,
        "train__stages__poison__max_steps": 1,
        "train__stages__finetune__max_steps": 1,
    }
    run = load_run(train(tiny_config(**changes)))
    source = open_examples(run.config, str(alpaca_file))
    for rows in measure_rows(run, [source[i] for i in range(4)], list(PASSES), batch_size=3):
        for row in rows:
            assert row["num_tokens"] == row["num_text_tokens"] > 10
            assert row["alone_loss"] != row["base_loss"] > 0
