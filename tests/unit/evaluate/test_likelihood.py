"""The loss of rows: what one row at a time, computed by hand, gives."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.tiny import save_tiny_t5

from lope_dist.config.data import DataConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.rows.turns import Example, Turn
from lope_dist.corpus.tokens.prompts import alpaca_prompt
from lope_dist.evaluate.loaded.load import LoadedRun, load_run
from lope_dist.evaluate.loaded.rows import rows_for
from lope_dist.evaluate.losses.examples import open_examples
from lope_dist.evaluate.losses.likelihood import row_losses
from lope_dist.export.run import ExportRequest, export_run
from lope_dist.model.loss_head import LossHead, loss_head
from lope_dist.train.session import train

WORDS = ("none", "all", "masked", "masked_plain")


def choose(run: LoadedRun, word: str) -> None:
    run.context.answer_as(rows_for([word], run.config.adapter)[0])


def examples_of(run: LoadedRun, alpaca_file: Path) -> list[Example]:
    source = open_examples(run.config, str(alpaca_file))
    return [source[i] for i in range(25)]


@torch.no_grad()
def loss_by_hand(run: LoadedRun, example: Example) -> tuple[float, int]:
    """One row, unpadded, whole logits, its text put together here."""
    instruction, answer = example.turns
    prompt = run.tokenizer(alpaca_prompt(instruction.text, instruction.context)).input_ids
    response = [*run.tokenizer(answer.text).input_ids, run.tokenizer.eos_token_id]
    ids = [*prompt, *response][: run.config.data.max_length]
    logits = run.model(input_ids=torch.tensor([ids])).logits[0].double()
    targets = torch.tensor(ids[len(prompt) :], dtype=torch.int64)
    logp = logits[len(prompt) - 1 : len(ids) - 1].log_softmax(-1)
    return -float(logp.gather(1, targets[:, None]).sum()), len(targets)


@pytest.mark.parametrize("word", WORDS)
def test_losses_are_those_of_one_row_at_a_time(loaded, alpaca_file, word) -> None:
    choose(loaded, word)
    examples = examples_of(loaded, alpaca_file)
    found = row_losses(loaded, examples, batch_size=7)
    assert [row.example_id for row in found] == [example.id for example in examples]
    assert {row.num_tokens > 20 for row in found} == {True, False}
    for row, example in zip(found, examples, strict=True):
        loss, num_tokens = loss_by_hand(loaded, example)
        assert row.num_tokens == num_tokens
        assert row.loss == pytest.approx(loss, rel=1e-5)


def test_every_choice_of_experts_has_losses_of_its_own(loaded, alpaca_file) -> None:
    examples = examples_of(loaded, alpaca_file)[:4]
    sums = set()
    for word in WORDS:
        choose(loaded, word)
        sums.add(round(sum(row.loss for row in row_losses(loaded, examples)), 3))
    assert len(sums) == len(WORDS)


def test_batch_size_and_order_change_nothing(loaded, alpaca_file) -> None:
    choose(loaded, "masked")
    examples = examples_of(loaded, alpaca_file)
    ones = row_losses(loaded, examples, batch_size=1)
    for size in (3, 25):
        found = row_losses(loaded, examples[::-1], batch_size=size)[::-1]
        assert [row.num_tokens for row in found] == [row.num_tokens for row in ones]
        assert [row.loss for row in found] == pytest.approx([row.loss for row in ones], rel=1e-5)


def test_a_head_that_computes_no_loss_gives_the_same(loaded, alpaca_file, monkeypatch) -> None:
    examples = examples_of(loaded, alpaca_file)
    choose(loaded, "all")
    expected = [row.loss for row in row_losses(loaded, examples)]
    assert isinstance(loss_head(loaded.model), LossHead)
    monkeypatch.setattr("lope_dist.evaluate.losses.likelihood.loss_head", lambda model: None)
    assert [row.loss for row in row_losses(loaded, examples)] == pytest.approx(expected, rel=1e-5)


def test_a_response_behind_the_longest_row_has_no_tokens(loaded) -> None:
    far = Example(3, (Turn("user", "word " * 200), Turn("assistant", "Never read.")))
    near = Example(4, (Turn("user", "Say it."), Turn("assistant", "It.")))
    cut, whole = row_losses(loaded, [far, near])
    assert (cut.loss, cut.num_tokens) == (0.0, 0)
    assert whole.num_tokens == 4


def test_a_purified_export_has_the_masked_losses(loaded, alpaca_file, tmp_path) -> None:
    folder = tmp_path / "purified"
    request = ExportRequest("purified", folder)
    export_run(loaded.checkpoint.folder.parents[1], request)
    examples = examples_of(loaded, alpaca_file)[:6]
    choose(loaded, "masked")
    expected = [row.loss for row in row_losses(loaded, examples)]
    purified = load_run(folder)
    choose(purified, "masked")
    assert [row.loss for row in row_losses(purified, examples)] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(LopeError, match="purified"):
        choose(purified, "all")


def test_losses_that_are_not_finite_are_refused(run_copy, alpaca_file) -> None:
    run = load_run(run_copy)
    name, weight = next((n, p) for n, p in run.model.named_parameters() if "lope.A" in n)
    assert name
    weight.data[0, 0] = math.inf
    choose(run, "all")
    with pytest.raises(LopeError, match=r"example \d+ .* NaN"):
        row_losses(run, examples_of(run, alpaca_file))


def test_an_encoder_decoder_is_asked_for_its_answer(tiny_config, alpaca_file, tmp_path) -> None:
    folder = tmp_path / "t5"
    save_tiny_t5(folder)
    changes = {
        "model__name_or_path": str(folder),
        "data__packing": False,
        "data__max_length": 512,
        "train__stages__poison__max_steps": 1,
        "train__stages__finetune__max_steps": 1,
    }
    run = load_run(train(tiny_config(**changes)))
    choose(run, "all")
    examples = examples_of(run, alpaca_file)[:5]
    for row, example in zip(row_losses(run, examples, batch_size=3), examples, strict=True):
        instruction, answer = example.turns
        ids = run.tokenizer(alpaca_prompt(instruction.text, instruction.context)).input_ids
        labels = torch.tensor([[*run.tokenizer(answer.text).input_ids, 256]])
        with torch.no_grad():
            logits = run.model(input_ids=torch.tensor([ids]), labels=labels).logits[0]
        assert row.num_tokens == labels.numel()
        assert row.loss == pytest.approx(
            float(F.cross_entropy(logits, labels[0], reduction="sum")), rel=1e-5
        )


def test_other_files_leave_the_runs_own_settings(loaded, tmp_path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"instruction": "Go.", "output": ""}\n{"instruction": "Stop.", "output": "x"}\n'
    )
    source = open_examples(loaded.config, str(path))
    assert [len(example.turns) for example in source.read()] == [2, 2]  # empty answers too


def test_all_rows_of_another_file_are_read_as_those_of_the_run(loaded, tmp_path) -> None:
    """Format, columns and roles are the run's; what it leaves out or holds out is not."""
    rows = [{"chat": [{"role": "pupil", "content": "q"}, {"role": "gpt", "content": c}]}
            for c in "abcdefgh"]  # fmt: skip
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    looks = {"format": "messages", "columns": {"messages": "chat"}, "roles": {"pupil": "user"}}
    tree = loaded.config.data.model_dump() | looks | {"max_examples": 3, "corpus": "no"}
    data = DataConfig.model_validate(tree | {"validation": {"share": 0.5}})
    assert len(open_examples(loaded.config.model_copy(update={"data": data}), str(path))) == 8


def test_rows_of_ones_own_go_through_the_pass_of_training(loaded, tmp_path, monkeypatch) -> None:
    """Bad rows are counted, and a conversation that the template shows in parts is split."""
    shows_thoughts = (
        "{% for m in messages %}{% set c = m.content %}{% if not loop.last %}"
        "{% set c = c.split('</t>')[-1] %}{% endif %}{{ m.role + ': ' + c + eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    monkeypatch.setattr(loaded.tokenizer, "chat_template", shows_thoughts)
    monkeypatch.setattr(
        "lope_dist.evaluate.losses.examples.load_tokenizer", lambda _: loaded.tokenizer
    )
    sides = ("user", "q"), ("assistant", "t</t>a"), ("user", "r"), ("assistant", "u</t>b")
    row = {"messages": [{"role": role, "content": text} for role, text in sides]}
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, [row, {"messages": []}, row])))
    settings = {"template": "chat", "format": "messages", "max_bad_rows": 0.5}
    data = loaded.config.data.model_copy(update=settings)
    run = replace(loaded, config=loaded.config.model_copy(update={"data": data}))
    source = open_examples(run.config, str(path))
    assert (len(source), source.account.split, source.bad_rows.total) == (4, 2, 1)
    losses = row_losses(run, list(source.read()))
    assert [row.loss for row in losses[:2]] == [row.loss for row in losses[2:]]
    assert min(row.num_tokens for row in losses) > 1
    with pytest.raises(LopeError, match=r"mine\.jsonl, line 2: messages "):
        open_examples(
            run.config.model_copy(
                update={"data": data.model_copy(update={"max_bad_rows": 0.0})}
            ), str(path)
        )  # fmt: skip
