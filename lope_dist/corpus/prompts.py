"""An example -> pieces of text, each a target of the loss or not.

Targets are the text of every assistant turn together with what ends it (the end-of-sequence
or end-of-turn token), and nothing else. Pieces alternate and the last one is a target. Plain text
is a single target.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from lope_dist.core.errors import LopeError
from lope_dist.corpus.turns import Example, Turn

_PREAMBLE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
_PREAMBLE_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)


@dataclass(frozen=True)
class Piece:
    """A run of text that is learnt, or one that is only read."""

    text: str
    is_target: bool


def render(example: Example, template: str, tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """Return the pieces of an example in the ``alpaca`` or the ``chat`` template.

    Plain text is in neither: it is one target, as the text of a pretraining corpus.

    Raises:
        LopeError: the tokenizer has no end-of-sequence token or no chat template, or its chat
            template refuses or rewrites the conversation.
    """
    if example.is_plain:
        return [Piece(example.turns[0].text + _end_of_sequence(tokenizer), True)]
    if template == "alpaca":
        return _render_alpaca(example, _end_of_sequence(tokenizer))
    return _render_chat(example, tokenizer)


def alpaca_prompt(instruction: str, context: str = "") -> str:
    """Return Stanford Alpaca's prompt, up to and with `### Response:`."""
    preamble = _PREAMBLE_WITH_INPUT if context else _PREAMBLE
    return f"{preamble}\n\n{_alpaca_turn(instruction, context)}"


def _alpaca_turn(instruction: str, context: str) -> str:
    middle = f"### Input:\n{context}\n\n" if context else ""
    return f"### Instruction:\n{instruction}\n\n{middle}### Response:"


def _render_alpaca(example: Example, end: str) -> list[Piece]:
    """Return the pieces in Alpaca's template.

    The template is of one turn; for more, each further user turn repeats its sections without
    the preamble, and a system turn takes the preamble's place.
    """
    pieces: list[Piece] = []
    prompt = ""
    for turn in example.turns:
        if turn.role == "assistant":
            prompt = prompt or ("\n\n" if pieces else "") + "### Response:"
            pieces += [Piece(prompt, False), Piece(turn.text + end, True)]
            prompt = ""
        elif turn.role == "system":
            prompt += ("\n\n" if prompt or pieces else "") + turn.text
        elif prompt or pieces:
            prompt += "\n\n" + _alpaca_turn(turn.text, turn.context)
        else:
            prompt = alpaca_prompt(turn.text, turn.context)
    return pieces


def _render_chat(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """Return the pieces in the tokenizer's own template.

    What stands before an answer is the template's rendering of the turns so far with its
    generation prompt, as at inference; what it adds to render the answer too is split into
    the answer, its end and the template's own rest.
    """
    if tokenizer.chat_template is None:
        raise LopeError(
            "data.template = 'chat', but the tokenizer has no chat template; "
            "set data.template=alpaca or use an instruction-tuned model's tokenizer."
        )
    pieces: list[Piece] = []
    done = ""
    for index, turn in enumerate(example.turns):
        if turn.role != "assistant":
            continue
        prompt = _apply(example, example.turns[:index], tokenizer, is_prompt=True)
        whole = _apply(example, example.turns[: index + 1], tokenizer, is_prompt=False)
        if not prompt.startswith(done) or not whole.startswith(prompt):
            raise LopeError(
                f"The chat template renders the start of example {example.id} differently once "
                "more turns follow, so its answers cannot be told from the rest; "
                "split it into examples of one answer or set data.template=alpaca."
            )
        before, answer, has_end = _split_answer(
            example, turn, whole[len(prompt) :], _special_tokens(tokenizer)
        )
        end = "" if has_end else _end_of_sequence(tokenizer)
        pieces += [Piece(prompt[len(done) :] + before, False), Piece(answer + end, True)]
        done = prompt + before + answer
    return pieces


def _apply(
    example: Example,
    turns: tuple[Turn, ...],
    tokenizer: PreTrainedTokenizerBase,
    *,
    is_prompt: bool,
) -> str:
    messages = [
        {"role": t.role, "content": f"{t.text}\n\n{t.context}" if t.context else t.text}
        for t in turns
    ]
    try:
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_prompt)
        )
    except Exception as error:  # of any kind: a template is a program of its own
        raise LopeError(
            f"The tokenizer's chat template refuses example {example.id}: {error}."
        ) from None


def _split_answer(
    example: Example, turn: Turn, rendered: str, special_tokens: frozenset[str]
) -> tuple[str, str, bool]:
    """Split the rendering of an answer: what precedes it, it with its end, whether it ends.

    The end is what follows up to and with the first special token. White space that the
    template puts before an answer stays with it: it is part of the answer's first token.
    """
    blank = len(rendered) - len(rendered.lstrip())
    for text in (turn.text, turn.text.strip()):
        for at in (0, blank, rendered.find(text)):
            if at >= 0 and rendered.startswith(text, at):
                start = at if rendered[:at].strip() else 0
                rest = rendered[at + len(text) :]
                ends = [rest.index(t) + len(t) for t in special_tokens if t in rest]
                end = rest[: min(ends)] if ends else rest.rstrip()
                return rendered[:start], rendered[start : at + len(text)] + end, bool(ends)
    raise LopeError(
        f"The tokenizer's chat template changes an answer of example {example.id}; "
        "set data.template=alpaca."
    )


@lru_cache(maxsize=8)
def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    added = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    return frozenset(added) | frozenset(map(str, tokenizer.all_special_tokens))


def _end_of_sequence(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.eos_token is None:
        raise LopeError("The tokenizer has no end-of-sequence token, so answers could not end.")
    return str(tokenizer.eos_token)
