"""What of the rows reaches no token: columns, keys of messages, turns.

A template that leaves turns out shows it in a rendering, one for each role.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lope_dist.corpus.rows.layouts import Layout
from lope_dist.corpus.rows.turns import Example, RowError
from lope_dist.corpus.tokens.prompts import Form

_SILENT_KEYS = {"name", "tool_call_id", "id"}
"""Keys of messages that most templates do without, and that say nothing to learn."""


class Unused:
    """What is not used of the rows of some layouts; without a form, of their columns alone."""

    def __init__(self, form: Form | None) -> None:
        self._form = form
        self._chat = form.source if form is not None and form.template == "chat" else None
        self._is_shown: dict[str, bool] = {_turns_of("assistant"): True}
        """Part of conversations -> whether the chat template writes what it says."""

    def look_at(self, row: Example) -> None:
        """Find out whether the template shows the turns before a row's last answer, and its calls.

        Each role and each part of an answer with calls is asked for once.
        """
        if self._form is None or self._chat is None or row.is_plain:
            return
        for index, part, key in _parts(row):
            if part in self._is_shown:
                continue
            try:
                self._is_shown[part] = self._form.chat.shows(row, index, key)
            except RowError:
                return  # a bad row; another one may tell

    def sentences(self, layouts: Sequence[Layout]) -> list[str]:
        """Return what reaches no token, a sentence each."""
        columns = sorted({str(name) or "''" for layout in layouts for name in layout.unused})
        sentences = [f"columns that are not read: {', '.join(columns)}"] if columns else []
        if self._form is None:
            return sentences
        keys = {key for layout in layouts for key in layout.message_keys} - _SILENT_KEYS
        if any(layout.has_tools for layout in layouts):
            keys.add("tools")
        chat = self._chat
        unseen = sorted(key for key in keys if chat is None or not chat.mentions(key))
        unseen += [part for part, is_shown in self._is_shown.items() if not is_shown]
        if unseen:
            sentences.append(f"what the template does not show: {', '.join(unseen)}")
        return sentences


def _turns_of(role: str) -> str:
    return f"turns of the role {role}"


def _parts(row: Example) -> Iterator[tuple[int, str, str]]:
    """Yield turn, name and key of each text that a template may leave out."""
    learnt = row.learnt
    for index in range(max(learnt, default=0)):
        if row.turns[index].text:
            yield index, _turns_of(row.turns[index].role), "content"
    for index in learnt:
        turn = row.turns[index]
        if turn.more and turn.more.get("tool_calls"):
            yield index, "arguments of tool_calls", "tool_calls"
            if turn.text:
                yield index, "content of answers with tool_calls", "content"
