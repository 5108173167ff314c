"""A list of messages, in any of the usual forms, as turns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lope_dist.config.data import MESSAGE_FIELDS, SourceConfig
from lope_dist.corpus.rows.turns import RowError, Speaker, Turn

_CALL = "function_call"
_ROLES: dict[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "chatbot": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "tool_response": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    _CALL: _CALL,
    "tool_call": _CALL,
}
_KEYS = {"role": ("role", "from"), "content": ("content", "value")}
"""What a message calls its side and its text where `data.message_keys` does not say."""


class PlacedTurn(NamedTuple):
    """A turn, and where in the row its text and its context stand."""

    turn: Turn
    text_path: tuple[str | int, ...]
    context_path: tuple[str | int, ...] = ()


class MessageReader:
    """Reads messages by the roles and keys of one source."""

    def __init__(self, section: SourceConfig) -> None:
        self._roles = {**_ROLES, **section.roles}
        message_keys = section.message_keys
        self._keys = {
            field: (message_keys[field],) if field in message_keys else _KEYS.get(field, (field,))
            for field in MESSAGE_FIELDS
        }
        self._named = {key: field for field, keys in self._keys.items() for key in keys}
        self.other_keys: set[str] = set()
        """Keys of messages beyond role and text that were seen, as a template calls them."""

    def read(
        self, row: Mapping[str, Any], field: str, *, is_learnt: bool = True
    ) -> list[PlacedTurn]:
        """Return the turns of a field that holds a list of messages.

        Raises:
            RowError: what is wrong with it.
        """
        messages = listed(row[field], field)
        if not isinstance(messages, list) or not messages:
            role, text = (self._keys[name][0] for name in ("role", "content"))
            if field == "conversations":
                role, text = (self._keys[name][-1] for name in ("role", "content"))
            raise RowError(
                "wrong type", f"{field} must be a list of {{{role}, {text}}} that is not empty"
            )
        return [
            self._placed_turn(field, i, message, is_learnt) for i, message in enumerate(messages)
        ]

    def _placed_turn(self, field: str, index: int, message: Any, is_learnt: bool) -> PlacedTurn:
        where = f" of message {index + 1}"
        if not isinstance(message, Mapping):
            raise RowError(
                "wrong type", f"message {index + 1} must be an object, not {kind_of(message)}"
            )
        role = self._role(message, where)
        key = next((key for key in self._keys["content"] if key in message), None)
        text = None if key is None else _text(message[key], role, key, where)
        more = self._more(message)
        if role == _CALL:
            more["tool_calls"] = calls_of(text, where)
            role, text = "assistant", ""
        if text is None:
            if key is None and not more.get("tool_calls"):
                missing_key = self._keys["content"][0 if "from" not in message else -1]
                raise RowError("missing field", f"field '{missing_key}'{where} is missing")
            if not more.get("tool_calls"):
                raise RowError("wrong type", f"field '{key}'{where} must be a string, not null")
            text = ""
        if "tool_calls" in more:
            more["tool_calls"] = calls_of(more["tool_calls"], where)
        self.other_keys.update(more)
        learnt = is_learnt and (role != "assistant" or self._is_learnt(message, where))
        speaker: Speaker = role  # type: ignore[assignment]
        turn = Turn(speaker, text, is_learnt=learnt, more=more or None)
        return PlacedTurn(turn, (field, index, key or self._keys["content"][0]))

    def _role(self, message: Mapping[str, Any], where: str) -> str:
        key = next((key for key in self._keys["role"] if key in message), self._keys["role"][0])
        value = message.get(key)
        role = None
        if isinstance(value, str):
            role = self._roles.get(value) or self._roles.get(value.strip().lower())
        if role is None:
            keys = " has the keys " + ", ".join(map(str, message)) + " and" if value is None else ""
            raise RowError(
                "unknown role",
                f"the {key}{where}{keys} is {value!r}; known: {', '.join(self._roles)}; say "
                f"what another one stands for by data.roles={{{value or 'name'}: user}}, and what "
                "a message calls its parts by data.message_keys={role: speaker, content: text}",
            )
        return role

    def _more(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields beside role, text and marks; a null counts as absent."""
        read_fields = ("role", "content", "weight", "train")
        more = {}
        for key, value in message.items():
            field = self._named.get(key, key)
            if field not in read_fields and value is not None and value != []:
                more[_CALLS.get(field, field)] = value
        return more

    def _is_learnt(self, message: Mapping[str, Any], where: str) -> bool:
        for field in ("weight", "train"):
            value = next((message[key] for key in self._keys[field] if key in message), None)
            if value is not None and not flag(value, f"the {field}{where}"):
                return False
        return True


def check_answer(completion: Sequence[PlacedTurn], column: str) -> None:
    """Check that the messages of a completion hold no question.

    Raises:
        RowError: they do, as a whole conversation would, whose question the prompt has too.
    """
    asking = next((t.turn.role for t in completion if t.turn.role in ("system", "user")), None)
    if asking is not None:
        raise RowError(
            "question in the completion",
            f"the completion (column '{column}') has a message of role '{asking}'; it must be the "
            "answer alone; where this column holds the whole conversation, leave out data.format "
            f"and set data.columns={{messages: {column}}}",
        )


_FLAGS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


def flag(value: Any, name: str) -> bool:
    """Return a yes or no, which tables of text have as a word.

    Raises:
        RowError: it is neither.
    """
    word = str(value).strip().lower()
    if word not in _FLAGS:
        raise RowError("wrong type", f"{name} is {value!r}; it must be true or false, or 1 or 0")
    return _FLAGS[word]


_CALLS = {_CALL: "tool_calls"}  # OpenAI's older name, of one call


def listed(messages: Any, field: str) -> Any:
    """Return messages as a list: from their JSON, or from an object of lists (a `Sequence`)."""
    messages = parsed(messages, field, "")
    if isinstance(messages, Mapping) and all(
        isinstance(values, list) for values in messages.values()
    ):
        try:
            rows = zip(*messages.values(), strict=True)
            return [dict(zip(messages, values, strict=True)) for values in rows]
        except ValueError:
            return None  # of different lengths
    return messages


def calls_of(value: Any, where: str) -> list[dict[str, Any]]:
    """Return tool calls as chat templates take them; arguments that are JSON become an object.

    Raises:
        RowError: no calls.
    """
    calls = parsed(value, "tool_calls", where)
    whole_calls = []
    for call in calls if isinstance(calls, list) else [calls]:
        inner = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise RowError("wrong type", f"tool_calls{where} must be {{name, arguments}} objects")
        is_renamed = inner.get("arguments") is None and inner.get("parameters") is not None
        key = "parameters" if is_renamed else "arguments"  # templates know the latter
        members = {k: v for k, v in inner.items() if k == key or k != "arguments"}
        function = {"arguments" if k == key else k: v for k, v in members.items()}
        function["arguments"] = parsed(inner.get(key) or {}, f"the {key} of a tool call", where)
        outer = {"type": "function", "function": function}
        if inner is not call:
            outer = {**call, **outer}
        whole_calls.append({key: value for key, value in outer.items() if value is not None})
    return whole_calls


def tools_of(value: Any) -> list[Any] | None:
    """Return the tools of a row: a list, or its JSON.

    Raises:
        RowError: neither.
    """
    tools = parsed(value, "tools", "") if value else None
    if tools is None or tools == []:
        return None
    tools = tools if isinstance(tools, list) else [tools]
    for tool in tools:
        if not isinstance(tool, Mapping):
            raise RowError("wrong type", f"tools must be a list of objects, not of {kind_of(tool)}")
    return [
        tool if "function" in tool or "name" not in tool else {"type": "function", "function": tool}
        for tool in tools
    ]


def parsed(value: Any, name: str, where: str) -> Any:
    """Return what a JSON text holds, or what is no text as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RowError(
            "wrong type", f"{name}{where} is a string and no JSON: {value[:40]!r}"
        ) from None


def kind_of(value: Any) -> str:
    """Return how a message names the type of a value."""
    return "null" if value is None else type(value).__name__


def _text(value: Any, role: str, key: str, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(
        isinstance(part, str) or (isinstance(part, Mapping) and ("type" in part or "text" in part))
        for part in value
    ):
        return "".join(_part(part, number, where) for number, part in enumerate(value, start=1))
    if role in ("tool", _CALL):
        return json.dumps(value, ensure_ascii=False)
    raise RowError("wrong type", f"field '{key}'{where} must be a string, not {kind_of(value)}")


def _part(part: str | Mapping[str, Any], number: int, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text")
    if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
        raise RowError(
            "not text",
            f"part {number} of the content{where} is of type {kind!r}; a model of text alone "
            "reads parts of type 'text'",
        )
    return part["text"]
