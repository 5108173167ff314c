"""Templates as published models have them: each answer behind what inference would send."""

import itertools

import pytest
from support.chat_families import FAMILIES
from tokenizers import AddedToken

from lope_dist.config.data import SourceConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.examples.survey import example_of, outcomes
from lope_dist.corpus.rows.layouts import Layout
from lope_dist.corpus.rows.turns import RowError
from lope_dist.corpus.tokens.encode import IGNORED, encode
from lope_dist.corpus.tokens.prompts import Form, render, render_rows

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}


def conversation(family, turns, has_system, has_tools):
    messages = [{"role": "system", "content": "Be brief."}] if has_system else []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"Question {turn}?"})
        if has_tools:
            messages.append({"role": "assistant", "content": "", "tool_calls": [CALL]})
            messages.append({"role": "tool", "content": f"{turn} degrees"})
        # Answers that occur in what templates write, and in each other.
        messages.append({"role": "assistant", "content": ["n", "assistant", "t"][turn]})
        if family.has_thoughts:
            messages[-1]["reasoning_content"] = f"thought {turn}"
    return messages


def expected_rows(family, messages, tools):
    """Each answer behind its own history; those that go on with one another in one row."""
    rows, done = [], None
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = family.history(messages[:i], tools) + family.opening
        if done is None or not prompt.startswith(done):
            rows.append([])
            done = ""
        rows[-1] += [(prompt[len(done) :], False), (family.learnt(message), True)]
        done = prompt + family.learnt(message)
    return rows


def cases():
    for name, turns, has_system, has_tools in itertools.product(
        FAMILIES, (1, 3), (False, True), (False, True)
    ):
        family = FAMILIES[name]
        if family.has_system >= has_system and family.has_tools >= has_tools:
            yield pytest.param(name, turns, has_system, has_tools)


@pytest.fixture
def family_tokenizer(tokenizer):
    def make(family):
        swallows = family is FAMILIES["phi"]
        tokens = [AddedToken(t, special=True, rstrip=swallows) for t in ("<s>", *family.tokens)]
        tokenizer.add_tokens(tokens, special_tokens=True)
        tokenizer.bos_token = "<s>"
        tokenizer.chat_template = family.template
        return tokenizer

    return make


@pytest.mark.parametrize(("name", "turns", "has_system", "has_tools"), [*cases()])
def test_each_answer_is_learnt_once_behind_what_inference_sends(
    family_tokenizer, name, turns, has_system, has_tools
):
    family = FAMILIES[name]
    tokenizer, tools = family_tokenizer(family), TOOLS if has_tools else None
    messages = conversation(family, turns, has_system, has_tools)
    form = Form(tokenizer, "chat", 4096, day="2026-01-31")
    layout = Layout(SourceConfig(path="x"), allow_empty_response=False)
    example = layout.parse({"messages": messages, "tools": tools})
    rows = render_rows(example, form)
    expected = expected_rows(family, messages, tools)
    assert [[(p.text, p.is_target) for p in pieces] for _, pieces in rows] == expected
    assert len(rows) == 1 or family.splits
    (made,) = outcomes([example], form)  # which tells rows apart by their tokens too
    if name != "llama-3":  # whose line breaks this tokenizer joins at the end of a prompt
        assert len(made) == len(expected)
    kept = [example_of(0, one.line) for one in made]
    rows = [
        (tokens, render(one, form)) for one, tokens in zip(kept, encode(kept, form), strict=True)
    ]
    answers = 0
    for row, pieces in rows:
        learnt = [token for token in row.labels if token != IGNORED]
        assert tokenizer.decode(learnt) == "".join(p.text for p in pieces if p.is_target)
        for number in range(0, len(pieces), 2):
            prompt = "".join(p.text for p in pieces[: number + 1])
            sent = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            assert row.input_ids[: len(sent)] == sent
            assert row.labels[len(sent)] != IGNORED == row.labels[len(sent) - 1]
            answers += 1
    assert answers == turns * (2 if has_tools else 1)


def test_arguments_may_switch_thoughts_off(family_tokenizer):
    """The generation prompt then has the empty block, and nothing of it is learnt."""
    tokenizer = family_tokenizer(FAMILIES["qwen3"])
    layout = Layout(SourceConfig(path="x"), allow_empty_response=False)
    example = layout.parse({"prompt": "q", "completion": "a"})
    form = Form(tokenizer, "chat", 99, arguments={"enable_thinking": False})
    ((_, (prompt, answer)),) = render_rows(example, form)
    assert prompt.text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert answer.text == "a<|im_end|>"
    said = {"role": "assistant", "content": "a", "reasoning_content": "hm"}
    thinking = layout.parse({"prompt": "q", "completion": [said]})
    with pytest.raises(RowError, match=r"<think>.*hm.*data\.template_arguments"):
        render_rows(thinking, form)


def test_an_argument_that_no_template_reads_is_refused(family_tokenizer):
    form = Form(
        family_tokenizer(FAMILIES["qwen3"]), "chat", 99, arguments={"enable_thinkin": False}
    )
    with pytest.raises(LopeError, match=r"enable_thinkin.*'enable_thinking'"):
        form.chat  # noqa: B018


def test_thoughts_of_their_own_reach_a_template_that_looks_for_them_in_the_text(
    family_tokenizer,
):
    tokenizer = family_tokenizer(FAMILIES["deepseek-r1"])
    form = Form(tokenizer, "chat", 99)
    layout = Layout(SourceConfig(path="x"), allow_empty_response=False)
    messages = [{"role": "user", "content": "q"},
                {"role": "assistant", "content": "a", "reasoning_content": "hm"}] * 2  # fmt: skip
    rows = render_rows(layout.parse({"messages": messages}), form)
    wholes = ["".join(piece.text for piece in pieces) for _, pieces in rows]
    asked = "<｜User｜>q<｜Assistant｜>"
    assert wholes[0] == f"<s>{asked}<think>\nhm\n</think>\n\na<|im_end|>"
    assert wholes[1] == f"<s>{asked}a<|im_end|>{wholes[0].removeprefix('<s>')}"
    assert form.source.mentions("reasoning_content")


def test_a_call_ends_where_answers_end_and_not_with_a_token_of_its_own(family_tokenizer):
    tokenizer = family_tokenizer(FAMILIES["mistral"])
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST]' + m.content }}{% else %}"
        "{{ m.content }}{% for c in m.tool_calls or [] %}{{ '[TOOL_CALLS]' + c.function.name"
        " + c.function.arguments | tojson + '[/INST]' }}{% endfor %}{{ eos_token }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '[/INST]' }}{% endif %}"
    ).replace("{{ m.content }}", "{{ '[/INST]' + m.content }}")
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [CALL]}]
    layout = Layout(SourceConfig(path="x"), allow_empty_response=False)
    pieces = render(layout.parse({"messages": messages}), Form(tokenizer, "chat", 99))
    assert [p.text for p in pieces] == [
        "[INST]q[/INST]",
        '[TOOL_CALLS]weather{"city": "Oslo"}[/INST]<|im_end|>',
    ]
