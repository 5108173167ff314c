import pytest

from lope_dist.core.errors import LopeError
from lope_dist.corpus.rows.turns import Example, RowError, Turn
from lope_dist.corpus.tokens.prompts import Form, Piece, render, render_rows

USER, ANSWER = Turn("user", "Add 1 and 2."), Turn("assistant", "3")


def pieces(tokenizer, template, *turns):
    return [
        (p.text, p.is_target) for p in render(Example(5, turns), Form(tokenizer, template, 4096))
    ]


def test_alpaca_without_input(tokenizer):
    assert pieces(tokenizer, "alpaca", USER, ANSWER) == [
        (
            "Below is an instruction that describes a task. Write a response that appropriately "
            "completes the request.\n\n### Instruction:\nAdd 1 and 2.\n\n### Response:",
            False,
        ),
        ("3<|im_end|>", True),
    ]


def test_alpaca_with_input(tokenizer):
    assert pieces(tokenizer, "alpaca", Turn("user", "Add.", "1, 2"), ANSWER)[0] == (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:",
        False,
    )


def test_alpaca_of_several_turns(tokenizer):
    system = Turn("system", "Be brief.")
    assert pieces(tokenizer, "alpaca", system, USER, ANSWER, Turn("user", "More"), ANSWER) == [
        ("Be brief.\n\n### Instruction:\nAdd 1 and 2.\n\n### Response:", False),
        ("3<|im_end|>", True),
        ("\n\n### Instruction:\nMore\n\n### Response:", False),
        ("3<|im_end|>", True),
    ]
    assert pieces(tokenizer, "alpaca", USER, ANSWER, ANSWER)[2:] == [
        ("\n\n### Response:", False),
        ("3<|im_end|>", True),
    ]


@pytest.mark.parametrize(
    ("turns", "answers"),
    [
        ((Turn("system", "s"), ANSWER), 1),
        ((USER, Turn("system", "s"), ANSWER), 1),
        ((USER, USER, ANSWER), 1),
        ((USER, ANSWER, ANSWER), 2),
        ((ANSWER, USER, ANSWER), 2),
    ],
)
def test_a_header_stands_right_before_each_answer_whatever_the_order(tokenizer, turns, answers):
    found = pieces(tokenizer, "alpaca", *turns)
    assert [is_target for _, is_target in found] == [False, True] * answers
    for (asked, _), (said, _) in zip(found[::2], found[1::2], strict=True):
        assert (asked.count("### Response:"), asked[-13:]) == (1, "### Response:")
        assert said == "3<|im_end|>"


def test_what_a_template_marks_as_generated_is_learnt_and_nothing_else(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<a>says ' }}{% generation %}"
        "{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '</a>' }}{% else %}{{ m.content }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<a>' }}{% endif %}"
    )
    unlearnt = Turn("assistant", "no", is_learnt=False)
    found = pieces(tokenizer, "chat", USER, ANSWER, USER, unlearnt, USER, ANSWER)
    assert [text for text, is_target in found if is_target] == ["3<|im_end|>"] * 2
    assert "".join(text for text, _ in found) == (
        "</a>".join(f"Add 1 and 2.<a>says {said}<|im_end|>" for said in ("3", "no", "3"))
    )


def test_chat(tokenizer):
    turns = (Turn("system", "s"), Turn("user", "q", "c"), ANSWER, USER, Turn("assistant", " 4 "))
    assert pieces(tokenizer, "chat", *turns) == [
        ("<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq\n\nc<|im_end|>\n"
         "<|im_start|>assistant\n", False),
        ("3<|im_end|>", True),
        ("\n<|im_start|>user\nAdd 1 and 2.<|im_end|>\n<|im_start|>assistant\n", False),
        (" 4 <|im_end|>", True),
    ]  # fmt: skip


PLAIN = (
    "{% for m in messages %}{{m.role + ': ' + m.content + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}{{'[INST] ' + m.content + ' [/INST]'}}"
    "{% else %}{{' ' + m.content | trim + ' <|im_end|>'}}{% endif %}{% endfor %}"
)
THINK = (
    "{% for m in messages %}{{'<|im_start|>' + m.role + '\n'}}{% if m.role == 'assistant' %}"
    "{{'<think>\n\n</think>\n\n'}}{% endif %}{{m.content + '<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_without_an_end_of_turn_gets_the_end_of_sequence(tokenizer):
    tokenizer.chat_template = PLAIN
    example = Example(5, (USER, ANSWER, USER, ANSWER))
    asked = "user: Add 1 and 2.\nassistant:"
    rows = [pieces for _, pieces in render_rows(example, Form(tokenizer, "chat", 4096))]
    assert rows == [
        [Piece(asked, False), Piece(" 3<|im_end|>", True)],
        [Piece(f"{asked} 3\n{asked}", False), Piece(" 3<|im_end|>", True)],
    ], "at inference no end of sequence stands behind an earlier answer"


def test_a_template_that_pads_and_trims_answers(tokenizer):
    tokenizer.chat_template = INST
    assert pieces(tokenizer, "chat", USER, Turn("assistant", "  3 "), USER, ANSWER) == [
        ("[INST] Add 1 and 2. [/INST]", False),
        (" 3 <|im_end|>", True),
        ("[INST] Add 1 and 2. [/INST]", False),
        (" 3 <|im_end|>", True),
    ]


def test_what_a_template_writes_behind_its_generation_prompt_is_learnt(tokenizer):
    """Inference does not give it, so the model has to write it."""
    tokenizer.chat_template = THINK
    rendered = pieces(tokenizer, "chat", USER, ANSWER)
    assert rendered[0][0].endswith("<|im_start|>assistant\n")
    assert rendered[1:] == [("<think>\n\n</think>\n\n3<|im_end|>", True)]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, r"data\.template = 'chat'"),
        ("{{ raise_exception('roles must alternate') }}", "refuses it: .*must alternate"),
        ("{{ messages | length }}{% for m in messages %}{{m.content}}{% endfor %}", "differently"),
        (THINK.replace("m.content +", "'x' +"), r"data\.template=alpaca"),
    ],
)
def test_templates_that_do_not_fit_are_refused(tokenizer, template, message):
    tokenizer.chat_template = template
    with pytest.raises((LopeError, RowError), match=message):
        pieces(tokenizer, "chat", USER, ANSWER)


def test_a_tokenizer_without_an_end_is_refused(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(LopeError, match="no end-of-sequence token"):
        pieces(tokenizer, "alpaca", USER, ANSWER)
