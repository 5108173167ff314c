"""A tokenizer's chat template: what an answer stands behind, and what of it is learnt.

Both are found by rendering, never by looking for a text. The prompt of an answer is the rendering
of the messages before it with the generation prompt, as inference sends it. What the rendering
with the answer has behind that is learnt, up to and with the token that ends the answer; or what
the template puts into `{% generation %}`, where it has that.

Where the answer ends in a rendering shows when all of its texts get a mark behind them: what the
two renderings have in common at their end is the template's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from lope_dist.corpus.rows.turns import Example, RowError, Turn
from lope_dist.corpus.tokens.control import control_tokens
from lope_dist.corpus.tokens.template_source import THOUGHTS, TemplateSource, end_of_sequence

MARK = "\ue012"
"""A private-use character: no template looks for it or strips it."""
_THOUGHT = "\ue015"
"""Another one, which stands behind thoughts."""
_OPENSTHOUGHTS = re.compile(r"([<\[])(\w+)([>\]])\s*$")
_KEPT = ("id", "type", "role", "tool_call_id")  # a template may check their form


@dataclass(frozen=True)
class Answer:
    """One assistant turn behind what inference would show of the conversation before it."""

    turn: int
    prompt: str
    parts: tuple[tuple[str, bool], ...]
    """Runs of text behind the prompt, and whether they are learnt."""

    @property
    def rendering(self) -> str:
        """Prompt and answer."""
        return self.prompt + "".join(text for text, _ in self.parts)


@dataclass(frozen=True)
class _End:
    """How a template ends an answer."""

    tail: str
    """What it writes behind the answer's last text, up to and with the token that ends it."""
    dropped: str
    """What it writes behind that token."""
    added: str = ""
    """The end that the template lacks."""
    drops_thoughts: bool = False
    """Whether the template knows of thoughts, and writes those of this answer nowhere."""


class ChatTemplate:
    """How a chat template shows the answers of a conversation."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, source: TemplateSource) -> None:
        self._tokenizer, self._source = tokenizer, source
        self._ends = re.compile(
            "|".join(map(re.escape, control_tokens(tokenizer, only_special=False))) or "(?!)"
        )

    def answers(self, example: Example) -> list[Answer]:
        """Return each answer that is learnt, in order.

        Raises:
            RowError: the template refuses the conversation, or shows an answer nowhere.
        """
        messages = [_message(turn) for turn in example.turns]
        return [self._answer(messages, index, example.tools) for index in example.learnt]

    def shows(self, example: Example, index: int, key: str = "content") -> bool:
        """Return whether the template writes a turn's content, or the arguments of its calls.

        A learnt answer is looked at where it is learnt, others before the last answer.

        Raises:
            RowError: the template refuses the conversation.
        """
        last = index if index in example.learnt else example.learnt[-1]
        messages = [_message(turn) for turn in example.turns[: last + 1]]
        if key == "content":
            messages[index]["content"] += MARK
        else:
            messages[index][key] = [
                {**call, "function": {**call["function"], "arguments": {MARK: MARK}}}
                for call in messages[index][key]
            ]
        return MARK in self._source.apply(messages, example.tools, is_prompt=False)

    def _answer(self, messages: list[dict[str, Any]], index: int, tools: Any) -> Answer:
        history, answer = messages[:index], messages[index]
        if self._source.has_thoughts_in_text:
            answer = _with_thoughts_in_text(answer)
        rendering = self._source.apply([*history, answer], tools, is_prompt=False)
        end = self._end(rendering, history, answer, tools)
        prompt = self._prompt(rendering, history, tools)
        if not rendering.startswith(prompt):
            learnt = self._behind_more(prompt, rendering, history, answer, tools, end)
        elif end.drops_thoughts:
            raise _thoughts_dropped()
        elif self._source.marks_answers(tools):
            return Answer(index, prompt, self._marked(prompt, [*history, answer], tools))
        else:
            learnt = rendering[len(prompt) :].removesuffix(end.dropped) + end.added
        return Answer(index, prompt, ((learnt, True),))

    def _prompt(self, rendering: str, history: list[dict[str, Any]], tools: Any) -> str:
        """Return what inference shows before an answer."""
        if history and self._source.has_prompt(tools):
            return self._source.apply(history, tools, is_prompt=True)
        # What stands before any answer is its header, unless that is a blank alone.
        prompt = self._source.apply(history, tools, is_prompt=True) if history else ""
        header = _shared(self._bare(history, tools)[0], rendering)
        is_header = header.startswith(prompt) and header[len(prompt) :].strip()
        return header if is_header else prompt

    def _behind_more(
        self,
        prompt: str,
        rendering: str,
        history: list[dict[str, Any]],
        answer: Mapping[str, Any],
        tools: Any,
        end: _End,
    ) -> str:
        """Return what is learnt where the generation prompt says more than the rendering does."""
        before, _ = self._bare(history, tools)
        if not (prompt.startswith(before) and rendering.startswith(before)):
            history_shown = self._source.apply(history, tools, is_prompt=False) if history else ""
            if prompt.startswith(history_shown) and rendering.startswith(history_shown):
                header = prompt[len(history_shown) :]
                begins = rendering[len(history_shown) :][: min(len(prompt), 80)]
                raise RowError(
                    "begins otherwise",
                    f"the chat template's generation prompt is {header!r}, and with this answer "
                    f"the template writes {begins!r} there, which inference would never show; "
                    "leave out what the answer begins with, or change data.template_arguments",
                )
            raise RowError(
                "rewritten by the template",
                "the chat template renders the messages before an answer differently once the "
                "answer follows, so the learnt part cannot be separated from the rest; set "
                "data.template=alpaca",
            )
        opened = prompt[len(before) :]
        opening = _OPENSTHOUGHTS.search(opened)
        if opening is None:
            if end.drops_thoughts:
                raise _thoughts_dropped()
            return rendering[len(before) :].removesuffix(end.dropped) + end.added
        tag, closing = opening[0].strip(), f"{opening[1]}/{opening[2]}{opening[3]}"
        text = answer["content"]
        thoughts = _thoughts(answer)
        if closing not in text and isinstance(thoughts, str):
            text = f"{thoughts.strip(chr(10))}\n{closing}\n\n{text}"
        elif closing not in text:
            raise RowError(
                "no thoughts",
                f"the chat template opens every answer with {opened!r} in its generation prompt, "
                f"and this answer has no thoughts that '{closing}' would end; give it some "
                "(`reasoning_content`, or in its text), switch them off by "
                "data.template_arguments, or use the template of a model without them",
            )
        if text.lstrip().startswith(tag):
            text = text.lstrip().removeprefix(tag)
            text = text.lstrip("\n") if opened.endswith("\n") else text
        return text + end.tail

    def _end(
        self, rendering: str, history: list[dict[str, Any]], answer: Mapping[str, Any], tools: Any
    ) -> _End:
        with_marks = _with_marks(answer)
        marked = self._source.apply([*history, with_marks], tools, is_prompt=False)
        if marked == rendering:
            raise _not_shown()
        has_thoughts = any(_THOUGHT in str(with_marks.get(key)) for key in (*THOUGHTS, "content"))
        drops = has_thoughts and _THOUGHT not in marked and self._source.mentions(THOUGHTS[0])
        tail = _shared(rendering[::-1], marked[::-1])[::-1]
        ends = list(self._ends.finditer(tail))
        if not ends:
            eos, text_kept = end_of_sequence(self._tokenizer), tail.rstrip()
            return _End(text_kept + eos, tail[len(text_kept) :], eos, drops)
        end = ends[0]
        if answer.get("tool_calls"):  # whose own form may have tokens of its own
            usual = self._ends.search(self._bare(history, tools)[1])
            same = [
                candidate for candidate in ends if usual is not None and candidate[0] == usual[0]
            ]
            end = same[0] if same else ends[-1]
        return _End(tail[: end.end()], tail[end.end() :], drops_thoughts=drops)

    def _bare(self, history: Sequence[dict[str, Any]], tools: Any) -> tuple[str, str]:
        """Return what the template writes before and behind an answer that is one mark."""
        rendered = self._source.apply(
            [*history, {"role": "assistant", "content": MARK}], tools, is_prompt=False
        )
        before, mark, behind = rendered.partition(MARK)
        if not mark:
            raise _not_shown()
        return before, behind

    def _marked(
        self, prompt: str, messages: list[dict[str, Any]], tools: Any
    ) -> tuple[tuple[str, bool], ...]:
        """Return the parts behind the prompt by the template's own `{% generation %}`."""
        rendering, spans = self._source.generated(messages, tools)
        parts: list[tuple[str, bool]] = []
        position = len(prompt)
        for start, stop in spans:
            start = max(start, position)
            if stop > start:
                parts += [(rendering[position:start], False)] if start > position else []
                parts.append((rendering[start:stop], True))
                position = stop
        if not parts:
            raise RowError(
                "nothing to learn",
                "the chat template's {% generation %} holds nothing of the answer",
            )
        return tuple(parts)


def _shared(first: str, second: str) -> str:
    """Return the longest start that both share."""
    length = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    return min(first, second, key=len) if length is None else first[:length]


def _not_shown() -> RowError:
    return RowError(
        "not shown by the template",
        "the chat template does not show what the assistant says; set data.template=alpaca",
    )


def _thoughts_dropped() -> RowError:
    return RowError(
        "thoughts not shown by the template",
        "the chat template writes the thoughts of this answer nowhere, so they would not be "
        "learnt; leave them out, name their key as the template does, or use the template of a "
        "model with thoughts",
    )


def _message(turn: Turn) -> dict[str, Any]:
    content = f"{turn.text}\n\n{turn.context}" if turn.context else turn.text
    return {"role": turn.role, "content": content, **(turn.more or {})}


def _with_thoughts_in_text(message: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(thoughts := _thoughts(message), str):
        return message
    content = f"<think>\n{thoughts.strip(chr(10))}\n</think>\n\n{message['content']}"
    return {**message, "content": content}


def _thoughts(message: Mapping[str, Any]) -> Any:
    return next((message[name] for name in THOUGHTS if message.get(name)), None)


def _with_marks(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message with a mark behind each of its texts."""
    marked = {
        key: _with_mark(value, key, _THOUGHT if key in THOUGHTS else MARK)
        for key, value in message.items()
        if key != "name"
    }
    thoughts, closing, text = message["content"].partition("</think>")
    if thoughts.replace("<think>", "").strip() and closing:
        thoughts += _THOUGHT
    if text or thoughts or not message.get("tool_calls"):
        marked["content"] = thoughts + closing + text + MARK
    return {**message, **marked}


def _with_mark(value: Any, key: str, mark: str) -> Any:
    if isinstance(value, str):
        return value + mark if value and key not in _KEPT else value
    if isinstance(value, Mapping):
        return {k: _with_mark(v, k, mark) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_mark(v, key, mark) for v in value]
    return value
