"""A tokenizer's chat template as a pure function: its date and its arguments are filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import date
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from lope_dist.core.errors import LopeError, suggest
from lope_dist.core.limits import bounded
from lope_dist.corpus.rows.turns import RowError

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Names under which templates know one thing."""
_MOST_SECONDS, _MOST_MIB = 20.0, 1024
"""Of one conversation; honest templates take a millisecond."""
_DATE_CALL = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
_TAG = re.compile(r"<[^<>\s{}%'\"]+>|\[/?[A-Z_]+\]")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class TemplateSource:
    """What a chat template writes for some messages.

    Raises:
        LopeError: the tokenizer has none, the template asks for the date in a way that cannot be
            fixed, or an argument that it does not read.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any], day: str | None
    ) -> None:
        if tokenizer.chat_template is None:
            raise LopeError(
                "data.template = 'chat', but the tokenizer has no chat template; give it one with "
                "model.chat_template=FILE.jinja, or set data.template=alpaca."
            )
        self._tokenizer, self._arguments = tokenizer, dict(arguments)
        self._day = date.fromisoformat(day) if day else date.today()
        self._sources = {has_tools: self._source(has_tools) for has_tools in (False, True)}
        every = " ".join(self._sources.values())
        if unread := [name for name in arguments if not self.mentions(name)]:
            hint = suggest(unread[0], sorted({*re.findall(r"\w+", every)}))
            raise LopeError(
                f"data.template_arguments.{unread[0]} has no effect: the tokenizer's chat template "
                f"does not read an argument of this name; leave it out or correct it.{hint}"
            )
        self.has_thoughts_in_text = "</think>" in every and not any(
            _names(every, name) for name in THOUGHTS
        )
        """Whether it looks for thoughts in an answer's text, and nowhere else."""
        names = sorted({*_TAG.findall(every)}, key=len, reverse=True)
        self.tags = re.compile("|".join(map(re.escape, names)) or "(?!)")
        """The words in brackets that it writes, and may look for in a text, as `</think>`."""

    @property
    def identity(self) -> list[Any]:
        """All that decides what it writes: its text, with the date in it, and its arguments."""
        return [*dict.fromkeys(self._sources.values()), sorted(self._arguments.items())]

    def text(self, tools: Any) -> str:
        """Return the template, with the date in it."""
        return self._sources[tools is not None]

    def mentions(self, key: str) -> bool:
        """Return whether the template reads something of this name."""
        every = " ".join(self._sources.values())
        if key in THOUGHTS:
            return "</think>" in every or any(_names(every, name) for name in THOUGHTS)
        return _names(every, key)

    def has_prompt(self, tools: Any) -> bool:
        """Return whether the template has a generation prompt."""
        return "add_generation_prompt" in self.text(tools)

    def marks_answers(self, tools: Any) -> bool:
        """Return whether the template says itself what is learnt."""
        return _GENERATION.search(self.text(tools)) is not None

    def generated(self, messages: list[dict[str, Any]], tools: Any) -> tuple[str, list[Any]]:
        """Return the text, and start and end of each `{% generation %}` in it."""
        with _within_bounds():
            rendered: Any = render_jinja_template(
                conversations=[messages],
                tools=tools,
                chat_template=self.text(tools),
                return_assistant_tokens_mask=True,
                **self._tokenizer.special_tokens_map,
                **self._arguments,
            )
        (text,), (spans,) = rendered
        return text, spans

    def apply(self, messages: list[dict[str, Any]], tools: Any, *, is_prompt: bool) -> str:
        """Return the text of messages, with the generation prompt or without.

        Raises:
            RowError: the template refuses them.
            LopeError: it takes too much time or memory.
        """
        try:
            return self._rendered(messages, tools, is_prompt)
        except LopeError:
            raise
        except Exception as error:  # of any kind: a template is a program of its own
            texts = [_arguments_as_text(message) for message in messages]
            if texts != messages:  # some templates take the arguments of calls as JSON alone
                try:
                    return self._rendered(texts, tools, is_prompt)
                except Exception:
                    pass
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise RowError(
                "refused by the template", f"the chat template refuses it: {reason}"
            ) from None

    def _rendered(self, messages: list[dict[str, Any]], tools: Any, is_prompt: bool) -> str:
        with _within_bounds():
            return str(
                self._tokenizer.apply_chat_template(
                    messages,
                    tools=tools,
                    chat_template=self.text(tools),
                    tokenize=False,
                    add_generation_prompt=is_prompt,
                    **self._arguments,
                )
            )

    def _source(self, has_tools: bool) -> str:
        source = str(self._tokenizer.get_chat_template(tools=[{}] if has_tools else None))
        source = _DATE_CALL.sub(lambda call: json.dumps(self._day.strftime(call[2])), source)
        if re.search(r"strftime_now\s*\(", source):
            raise LopeError(
                "The tokenizer's chat template computes the format that it passes to strftime_now, "
                "so the date cannot be fixed; write the format as a constant in the template."
            )
        return source


def _within_bounds() -> AbstractContextManager[None]:
    """Context for a stranger's program; transformers' sandbox bounds neither time nor memory."""
    return bounded("The tokenizer's chat template", seconds=_MOST_SECONDS, mib=_MOST_MIB)


def uses_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether what a tokenizer's chat template writes changes from day to day."""
    return any(_DATE_CALL.search(source) for source in _texts(tokenizer.chat_template))


def end_of_sequence(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the token that ends an answer where no template says otherwise."""
    if tokenizer.eos_token is None:
        raise LopeError("The tokenizer has no end-of-sequence token, so answers could not end.")
    return str(tokenizer.eos_token)


def _names(source: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", source) is not None


def _texts(chat_template: Any) -> list[str]:
    if chat_template is None:
        return []
    return list(chat_template.values()) if isinstance(chat_template, dict) else [chat_template]


def _arguments_as_text(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    new = []
    for call in calls:
        function = dict(call["function"])
        if not isinstance(function.get("arguments"), str | None):
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
        new.append({**call, "function": function})
    return {**message, "tool_calls": new}
