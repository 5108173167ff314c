"""A run's prompts as in training, and the tokens that end its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lope_dist.corpus.rows.turns import Example, Turn
from lope_dist.corpus.tokens.encode import IGNORED, encode
from lope_dist.corpus.tokens.prompts import Form
from lope_dist.evaluate.loaded.load import LoadedRun

_ANSWER = "x"  # stands for the answer while a prompt is rendered
_LONGEST = 1 << 30


def ends_of_answer(run: LoadedRun) -> list[int]:
    """Return the tokens that end an answer: those of the run's template and the model's own."""
    _, learnt = rendered(run, [Turn("user", _ANSWER)])
    ends = set(learnt) & set(run.tokenizer.all_special_ids)
    usual = getattr(run.model.generation_config, "eos_token_id", None)
    usual = usual if isinstance(usual, list) else [usual]
    ends |= {end for end in (*usual, run.tokenizer.eos_token_id) if isinstance(end, int)}
    return sorted(ends)


def rendered(run: LoadedRun, turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
    """Return the tokens before an answer, and those of some answer with its end."""
    assert turns[-1].role == "user", "a user's turn comes last"
    history = tuple(replace(turn, is_learnt=False) for turn in turns)
    example = Example(0, (*history, Turn("assistant", _ANSWER)))
    is_encoder_decoder = bool(run.model.config.is_encoder_decoder)
    form = Form.of(run.config.data, run.tokenizer, is_encoder_decoder=is_encoder_decoder)
    (tokens,) = encode([example], replace(form, max_length=_LONGEST))
    learnt = [i for i, label in enumerate(tokens.labels) if label != IGNORED]
    prompt = tokens.input_ids if is_encoder_decoder else tokens.input_ids[: learnt[0]]
    return list(prompt), [tokens.labels[i] for i in learnt]
