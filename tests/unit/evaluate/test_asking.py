"""A run that is asked in words answers as the model does to the prompt of training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.core.errors import LopeError
from lope_dist.corpus.rows.turns import Turn
from lope_dist.corpus.tokens.prompts import alpaca_prompt
from lope_dist.evaluate.asking import Decoding, generate, reply, rows_of
from lope_dist.evaluate.loaded import load

SHORT = Decoding(max_new_tokens=12)


def by_hand(run, text: str) -> str:
    """Return the likeliest continuation of Alpaca's prompt, token by token."""
    ids = run.tokenizer(alpaca_prompt(text), return_tensors="pt").input_ids
    start = ids.shape[1]
    for _ in range(SHORT.max_new_tokens):
        with torch.no_grad():
            best = run.model(ids).logits[:, -1].argmax(-1, keepdim=True)
        if int(best) == run.tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, best], dim=1)
    return run.tokenizer.decode(ids[0, start:], skip_special_tokens=True)


@pytest.mark.parametrize("word", ["base", "masked", "all"])
def test_an_answer_is_the_likeliest_to_the_prompt_of_training(loaded, word: str) -> None:
    (row,) = rows_of(loaded, [word])
    loaded.context.answer_as(row)
    expected = by_hand(loaded, "Say a word")
    pieces: list[str] = []
    assert reply(loaded, [Turn("user", "Say a word")], SHORT, pieces.append) == expected
    assert "".join(pieces) == expected


def test_rows_are_compared_and_a_conversation_goes_on(loaded) -> None:
    (found,) = generate(loaded, ["Say a word"], ["masked", "base"], SHORT)
    assert list(found) == ["masked", "base"]
    assert found["masked"] != found["base"]
    talk = [Turn("user", "Say a word"), Turn("assistant", "Word."), Turn("user", "Another")]
    assert reply(loaded, talk, SHORT) != reply(loaded, talk[-1:], SHORT)


def test_what_is_drawn_depends_on_the_seed_alone(loaded) -> None:
    def drawn(seed: int) -> str:
        return reply(loaded, [Turn("user", "Draw")], Decoding(12, 5.0, seed=seed))

    assert drawn(1) == drawn(1) != drawn(2)


def test_only_what_was_asked_for_narrows_the_draw(loaded, monkeypatch) -> None:
    """Of itself transformers draws from the 50 likeliest tokens."""
    given: dict[str, object] = {}
    generate = loaded.model.generate

    def note(*arguments, **settings):
        given.update(settings)
        return generate(*arguments, **settings)

    monkeypatch.setattr(loaded.model, "generate", note)
    reply(loaded, [Turn("user", "Draw")], Decoding(2, 1.0))
    assert (given["top_k"], given["top_p"], given["repetition_penalty"]) == (0, 1.0, 1.0)


def test_settings_without_effect_and_talks_too_long_are_refused(loaded) -> None:
    for settings, name in (({"top_p": 0.5}, "--top-p"), ({"seed": 3}, "--seed")):
        with pytest.raises(LopeError, match=f"{name} .*--temperature 0"):
            Decoding(**settings)
    with pytest.raises(LopeError, match=r"539 tokens.* 256 .* 512 .*--max-new-tokens"):
        reply(loaded, [Turn("user", "x" * 400)], Decoding(256))


def test_the_commands_ask_the_same(loaded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load, "load_run", lambda *_, **__: loaded)
    (expected,) = generate(loaded, ["Say a word"], ["masked", "base"], SHORT)
    options = [str(tmp_path), "--max-new-tokens", "12"]
    runner = CliRunner()
    done = runner.invoke(
        app, ["generate", *options, "Say a word", "--compare", "masked,base", "--json"]
    )
    assert json.loads(done.stdout)[0]["answers"] == expected, done.output
    talked = runner.invoke(
        app, ["chat", *options, "--experts", "base"], input="Say a word\n/quit\n"
    )
    assert talked.exit_code == 0, talked.output
    assert expected["base"].split("\n")[0] in talked.stdout
    both = runner.invoke(app, ["chat", *options, "--compare", "masked,base"], input="Say\n/reset\n")
    assert both.exit_code == 0
    assert "masked" in both.stdout
    assert runner.invoke(
        app, ["generate", *options, "x", "--experts", "all", "--compare", "base"]
    ).exit_code


def test_the_folder_is_checked_first(tmp_path: Path) -> None:
    with pytest.raises(LopeError, match=r"run\.yaml"):
        load.load_run(tmp_path)
