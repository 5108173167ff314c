"""Chat templates in the manner of published models, and what each of them writes, in Python.

The templates are written for the tests; the functions beside them are the reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Messages = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Family:
    """A template and what it should come to."""

    template: str
    tokens: Sequence[str]
    """Its control tokens."""
    history: Callable[[Messages, Any], str]
    """What stands before an answer, up to its own opening."""
    opening: str
    """The generation prompt."""
    learnt: Callable[[dict[str, Any]], str]
    """What of an answer is learnt."""
    has_system: bool = True
    has_tools: bool = False
    has_thoughts: bool = False
    splits: bool = False
    """Whether earlier answers are shown otherwise than as the model wrote them."""


def _template(name: str) -> str:
    return (Path(__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


def _calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [call["function"] for call in message.get("tool_calls", ())]


def _plain_tools(tools: Any) -> str:
    return "\n".join(json.dumps(tool) for tool in tools)


# Llama 3: headers; a call is a JSON object; tools stand in the system message.
LLAMA = Family(
    template=_template("llama-3"),
    tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    history=lambda messages, tools: (
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 31 Jan 2026\n\n"
        + (_plain_tools(tools) + "\n" if tools else "")
        + "".join(m["content"] for m in messages if m["role"] == "system")
        + "<|eot_id|>"
        + "".join(
            f"<|start_header_id|>{'ipython' if m['role'] == 'tool' else m['role']}"
            f"<|end_header_id|>\n\n{_llama_said(m)}"
            for m in messages
            if m["role"] != "system"
        )
    ),
    opening="<|start_header_id|>assistant<|end_header_id|>\n\n",
    learnt=lambda m: _llama_said(m),
    has_tools=True,
)


def _llama_said(m: dict[str, Any]) -> str:
    for f in _calls(m):
        return f'{{"name": "{f["name"]}", "parameters": {json.dumps(f["arguments"])}}}<|eot_id|>'
    return m["content"] + "<|eot_id|>"


# Qwen3: thoughts before the last question are dropped; an empty block where there are none.
QWEN = Family(
    template=_template("qwen3"),
    tokens=("<|im_start|>",),
    history=lambda messages, tools: _qwen(messages, tools),
    opening="<|im_start|>assistant\n",
    learnt=lambda m: (
        f"<think>\n{m.get('reasoning_content', '')}\n</think>\n\n{_qwen_said(m)}<|im_end|>"
    ),
    has_tools=True,
    has_thoughts=True,
    splits=True,
)


def _qwen_said(m: dict[str, Any]) -> str:
    said = m["content"]
    for f in _calls(m):
        said += "\n" if m["content"] else ""
        said += '<tool_call>\n{"name": "' + f["name"] + '", "arguments": '
        said += json.dumps(f["arguments"]) + "}\n</tool_call>"
    return said


def _qwen(messages: Messages, tools: Any) -> str:
    system = "".join(m["content"] for m in messages if m["role"] == "system")
    if tools:
        system = (system + "\n\n" if system else "") + _plain_tools(tools) + "\n"
    text = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    last = max(i for i, m in enumerate(messages) if m["role"] == "user")
    for i, m in enumerate(messages):
        role, said = m["role"], m["content"]
        if role == "system":
            continue
        if role == "tool":
            role, said = "user", f"<tool_response>\n{said}\n</tool_response>"
        elif role == "assistant":
            thoughts = m.get("reasoning_content") if i > last else None
            said = (f"<think>\n{thoughts}\n</think>\n\n" if thoughts else "") + _qwen_said(m)
        text += f"<|im_start|>{role}\n{said}<|im_end|>\n"
    return text


# Gemma: no system message, strict alternation, `model`.
GEMMA = Family(
    template=_template("gemma"),
    tokens=("<start_of_turn>", "<end_of_turn>"),
    history=lambda messages, tools: "<s>" + "".join(
        f"<start_of_turn>{'model' if m['role'] == 'assistant' else 'user'}\n"
        f"{m['content']}<end_of_turn>\n"
        for m in messages
    ),
    opening="<start_of_turn>model\n",
    learnt=lambda m: m["content"] + "<end_of_turn>",
    has_system=False,
)  # fmt: skip

# Mistral: no generation prompt; system and tools stand before the last question.
MISTRAL = Family(
    template=_template("mistral"),
    tokens=(
        "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    ),
    history=lambda messages, tools: _mistral(messages, tools),
    opening="",
    learnt=lambda m: _mistral_said(m),
    has_tools=True,
    splits=True,
)  # fmt: skip


def _mistral_said(m: dict[str, Any]) -> str:
    if calls := _calls(m):
        return f"[TOOL_CALLS] [{''.join(json.dumps(f) for f in calls)}]<|im_end|>"
    return f" {m['content']}<|im_end|>"


def _mistral(messages: Messages, tools: Any) -> str:
    system = "".join(m["content"] + "\n\n" for m in messages if m["role"] == "system")
    last = max(i for i, m in enumerate(messages) if m["role"] == "user")
    text = "<s>"
    for i, m in enumerate(messages):
        if m["role"] == "user":
            if tools and i == last:
                text += f"[AVAILABLE_TOOLS] {json.dumps(tools)}[/AVAILABLE_TOOLS]"
            text += f"[INST] {system if i == last else ''}{m['content']}[/INST]"
        elif m["role"] == "tool":
            text += f"[TOOL_RESULTS] {json.dumps({'content': m['content']})}[/TOOL_RESULTS]"
        elif m["role"] == "assistant":
            text += _mistral_said(m)
    return text


# DeepSeek-R1: the generation prompt opens the thoughts, which no later turn shows.
DEEPSEEK = Family(
    template=_template("deepseek-r1"),
    tokens=("<｜User｜>", "<｜Assistant｜>"),
    history=lambda messages, tools: "<s>" + "".join(
        {
            "system": m["content"],
            "user": f"<｜User｜>{m['content']}",
            "assistant": f"<｜Assistant｜>{m['content']}<|im_end|>",
        }[m["role"]]
        for m in messages
    ),
    opening="<｜Assistant｜><think>\n",
    learnt=lambda m: f"{m['reasoning_content']}\n</think>\n\n{m['content']}<|im_end|>",
    has_thoughts=True,
    splits=True,
)  # fmt: skip

# gpt-oss: channels; the last answer ends with another token than earlier ones.
GPT_OSS = Family(
    template=_template("gpt-oss"),
    tokens=("<|start|>", "<|message|>", "<|end|>", "<|channel|>", "<|return|>", "<|call|>"),
    history=lambda messages, tools: (
        "<|start|>system<|message|>Current date: 2026-01-31<|end|>"
        + "".join(
            _oss_call(m)
            or {
                "system": f"<|start|>developer<|message|>{m['content']}<|end|>",
                "user": f"<|start|>user<|message|>{m['content']}<|end|>",
                "tool": f"<|start|>functions to=assistant<|message|>{m['content']}<|end|>",
                "assistant": f"<|start|>assistant<|channel|>final<|message|>{m['content']}<|end|>",
            }[m["role"]]
            for m in messages
        )
    ),
    opening="<|start|>assistant",
    learnt=lambda m: (
        _oss_call(m)
        or (
            f"<|start|>assistant<|channel|>analysis<|message|>{m['reasoning_content']}<|end|>"
            if m.get("reasoning_content")
            else ""
        )
        + f"<|start|>assistant<|channel|>final<|message|>{m['content']}<|return|>"
    ).removeprefix("<|start|>assistant"),
    has_tools=True,
    has_thoughts=True,
    splits=True,
)


def _oss_call(m: dict[str, Any]) -> str:
    for f in _calls(m):
        return (
            f"<|start|>assistant to=functions.{f['name']}<|channel|>commentary json<|message|>"
            f"{json.dumps(f['arguments'])}<|call|>"
        )
    return ""


# Phi: an end token that swallows the line break behind it, and one more behind all turns.
PHI = Family(
    template=_template("phi"),
    tokens=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    history=lambda messages, tools: "".join(
        f"<|{m['role']}|>\n{m['content']}<|end|>\n" for m in messages
    ),
    opening="<|assistant|>\n",
    learnt=lambda m: m["content"] + "<|end|>",
)

FAMILIES = {
    "llama-3": LLAMA,
    "qwen3": QWEN,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "deepseek-r1": DEEPSEEK,
    "gpt-oss": GPT_OSS,
    "phi": PHI,
}
