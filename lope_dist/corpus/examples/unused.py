"""What of the rows reaches no token: columns, keys of messages, turns.

A template that leaves turns out shows it in a rendering, one for each role.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        self._is_shown: dict[str, bool] = {"assistant": True}
        """Role -> whether the chat template writes what its turns say."""

    def look_at(self, row: Example) -> None:
        """Find out of the roles before a row's last answer whether the template shows them."""
        if self._form is None or self._chat is None or row.is_plain:
            return
        for index in range(max(row.learnt, default=0)):
            role, text = row.turns[index].role, row.turns[index].text
            if role in self._is_shown or not text:
                continue
            try:
                self._is_shown[role] = self._form.chat.shows(row, index)
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
        unseen += [
            f"turns of the role {role}" for role, is_shown in self._is_shown.items() if not is_shown
        ]
        if unseen:
            sentences.append(f"what the template does not show: {', '.join(unseen)}")
        return sentences
