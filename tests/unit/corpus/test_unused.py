"""What of the rows reaches no token is named, and answers without their thoughts are refused."""

import pytest
from support.row_files import write_rows

from lope_dist.config.data import DataConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.examples.source import open_source
from lope_dist.corpus.tokens.chat import ChatTemplate
from lope_dist.corpus.tokens.prompts import Form, render

TWO_ROLES = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[U]' + m.content | trim }}"
    "{% elif m.role == 'assistant' %}{{ '[A]' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[A]{% endif %}"
)


CALLS_ALONE = (
    "{% for m in messages %}[{{ m.role }}]{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "{{ c.function.name + ' ' + c.function.arguments | tojson }}{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NAMES_ALONE = CALLS_ALONE.replace(" + ' ' + c.function.arguments | tojson", "").replace(
    "[{{ m.role }}]", "[{{ m.role }}]{{ m.content if m.tool_calls }}"
)
THOUGHTS_DROPPED = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] | trim }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


@pytest.fixture
def source_of(tmp_path, tokenizer):
    """Return a function that opens rows of messages."""

    def source(*rows):
        path = write_rows(tmp_path / "x.jsonl", rows)
        return open_source(DataConfig(path=str(path)), Form(tokenizer, "chat", 999))

    return source


def test_parts_of_answers_that_the_template_does_not_show_are_named_once(source_of, tokenizer):
    def unused(content, **call):
        calls = [{"function": {"name": "look", **call}}]
        answer = turn("assistant", content, tool_calls=calls)
        return source_of(*[{"messages": [turn("user", "q"), answer]}] * 20).account.unused

    tokenizer.chat_template = CALLS_ALONE
    assert unused("", arguments={"id": "5"}) == []
    (sentence,) = unused("Let me look that up.", arguments={"at": 1})
    assert sentence.endswith(": content of answers with tool_calls")
    tokenizer.chat_template = NAMES_ALONE
    (sentence,) = unused("Let me look that up.", arguments={})
    assert sentence.endswith(": arguments of tool_calls")


def test_what_a_call_names_parameters_reaches_a_template_that_reads_arguments(source_of, tokenizer):
    tokenizer.chat_template = CALLS_ALONE
    answer = turn("assistant", "", tool_calls=[{"name": "look", "parameters": {"at": "home"}}])
    source = source_of({"messages": [turn("user", "q"), answer]})
    (piece,) = [p for p in render(source[0], Form(tokenizer, "chat", 999)) if p.is_target]
    assert piece.text == 'look {"at": "home"}<|im_end|>'


def test_an_answer_whose_thoughts_the_template_drops_is_bad(source_of, tokenizer):
    def source(content, **more):
        return source_of({"messages": [turn("user", "q"), turn("assistant", content, **more)]})

    tokenizer.chat_template = THOUGHTS_DROPPED
    for content, more in (
        ("<think>\n2 + 2\n</think>\n\n4", {}),
        ("4", {"reasoning_content": "2 + 2"}),
    ):
        with pytest.raises(LopeError, match=r"line 1: .*thoughts of this answer"):
            source(content, **more)
    assert source("4").account.examples == 1
    assert source("<think>\n\n</think>\n\n4").account.examples == 1  # there are none
    tokenizer.chat_template = THOUGHTS_DROPPED.replace(".split('</think>')[-1]", "")
    assert source("<think>\n2 + 2\n</think>\n\n4").account.examples == 1


def test_roles_that_the_template_does_not_show_are_named_once(source_of, tokenizer, monkeypatch):
    def unused(*rows):
        return source_of(*rows).account.unused

    brief = turn("system", "Be brief.")
    four = turn("tool", "4 degrees")
    behind = {
        "messages": [
            turn("user", "q"),
            turn("assistant", "a"),
            four,
            turn("assistant", "b", weight=0),
        ]
    }
    rows = [
        {
            "messages": [
                brief,
                turn("user", "q"),
                turn("assistant", "a"),
                four,
                turn("assistant", "b"),
            ]
        }
    ] * 20
    assert unused(behind, *rows) == []
    tokenizer.chat_template = TWO_ROLES
    asked, shows = [], ChatTemplate.shows

    def counted(self, example, index, key):
        asked.append(example.turns[index].role)
        return shows(self, example, index, key)

    monkeypatch.setattr(ChatTemplate, "shows", counted)
    (sentence,) = unused(behind, *rows)
    assert sentence.endswith(": turns of the role system, turns of the role tool")
    assert sorted(asked) == ["system", "tool", "user"]
    assert unused(behind) == []  # nothing is learnt behind it
