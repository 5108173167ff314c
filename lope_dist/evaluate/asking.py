"""Text that a run generates: a prompt in the form that it was trained on, and its answer.

run = load_run("runs/mine")
print(reply(run, [Turn("user", "Name three colours.")]))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TextStreamer

from lope_dist.core.errors import LopeError
from lope_dist.corpus.rows.turns import Turn
from lope_dist.evaluate.loaded.load import PURIFIED, LoadedRun
from lope_dist.evaluate.loaded.parallel import answer_batches
from lope_dist.evaluate.loaded.prompts import ends_of_answer, rendered
from lope_dist.evaluate.loaded.rows import Row, rows_for
from lope_dist.model.families import num_positions


@dataclass(frozen=True)
class Decoding:
    """How an answer is drawn."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0: the likeliest token each time."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that have this much probability together."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers out of range or without effect.

        Raises:
            LopeError: a number out of its range, or one without effect.
        """
        if self.max_new_tokens < 1:
            raise LopeError(f"--max-new-tokens {self.max_new_tokens}: at least 1.")
        if not 0 <= self.temperature < float("inf"):
            raise LopeError(f"--temperature {self.temperature:g}: a number from 0.")
        if not 0 < self.top_p <= 1:
            raise LopeError(f"--top-p {self.top_p:g}: above 0, at most 1.")
        if self.temperature == 0 and (self.top_p != 1 or self.seed):
            name = "--seed" if self.seed else "--top-p"
            raise LopeError(f"{name} has no effect with --temperature 0, which draws nothing.")


def reply(
    run: LoadedRun,
    turns: Sequence[Turn],
    decoding: Decoding = Decoding(),
    on_text: Callable[[str], None] | None = None,
) -> str:
    """Return what the run says next, as `run.context` is set.

    Of ranks that share a base the others must be within `run.together`, as this one is.

    Args:
        run: The run.
        turns: The conversation, a user's turn last.
        decoding: How the answer is drawn.
        on_text: Is given each piece of the answer as it is there.

    Raises:
        LopeError: a conversation that the run's template cannot show, or one too long.
    """
    (prompt, _), ends = rendered(run, turns), ends_of_answer(run)
    _check_length(run, len(prompt), decoding.max_new_tokens)
    ids = torch.tensor([prompt], device=run.model.device)
    model: Any = run.model
    # All that a model's generation_config.json may say otherwise.
    settings: dict[str, Any] = {"do_sample": decoding.temperature > 0, "repetition_penalty": 1.0}
    if settings["do_sample"]:
        torch.manual_seed(decoding.seed)
        settings |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=run.tokenizer.pad_token_id,
        streamer=_Streamer(run, on_text) if on_text is not None else None,
        **settings,
    )[0].tolist()
    answer = output if model.config.is_encoder_decoder else output[len(prompt) :]
    return str(run.tokenizer.decode(answer, skip_special_tokens=True))


def generate(
    run: LoadedRun,
    prompts: Sequence[str],
    experts: Sequence[str],
    decoding: Decoding = Decoding(),
    *,
    progress: bool = False,
) -> list[dict[str, str]]:
    """Return the answers to prompts: of each a mapping, row -> answer.

    Args:
        run: The run; ranks that have loaded it together share the prompts out.
        prompts: What a user says, each in a conversation of its own.
        experts: The rows to answer as, words of `rows_for`.
        decoding: How answers are drawn.
        progress: Show a bar.

    Collective: yes, where ranks have loaded the run together.

    Raises:
        LopeError: experts that the run does not have; what `reply` raises.
    """
    rows = rows_of(run, experts)
    questions = [(prompt, row) for prompt in prompts for row in rows]

    def answer(question: tuple[str, Row]) -> str:
        prompt, row = question
        with run.context.answering(row):
            return reply(run, [Turn("user", prompt)], decoding)

    answers = answer_batches(run, questions, answer, title="Answers", progress=progress)
    words = list(experts)
    return [
        dict(zip(words, answers[start : start + len(words)], strict=True))
        for start in range(0, len(answers), len(words))
    ]


def rows_of(run: LoadedRun, experts: Sequence[str]) -> list[Row]:
    """Return the rows that `--experts` words name.

    Raises:
        LopeError: experts that the run does not have.
    """
    is_purified = run.checkpoint.stage == PURIFIED
    return rows_for(experts, run.config.adapter, is_purified=is_purified)


def _check_length(run: LoadedRun, num_tokens: int, more: int) -> None:
    longest = num_positions(run.model.config)
    if longest is not None and num_tokens + more > longest:
        raise LopeError(
            f"The conversation has {num_tokens} tokens, and with {more} more it is longer than the "
            f"{longest} that the model was made for; shorten it, or set --max-new-tokens."
        )


class _Streamer(TextStreamer):
    """Passes words to a function as soon as they are whole."""

    def __init__(self, run: LoadedRun, on_text: Callable[[str], None]) -> None:
        is_causal = not run.model.config.is_encoder_decoder
        super().__init__(run.tokenizer, skip_prompt=is_causal, skip_special_tokens=True)  # pyright: ignore[reportArgumentType]
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Pass a piece on."""
        if text:
            self._on_text(text)
