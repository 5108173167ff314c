"""Marks of noise where a chat template looks into the texts."""

import pytest
import torch
from support.corpora import make

from lope_dist.config.noise import NoiseConfig, TextNoiseConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role
from lope_dist.corpus.rows.turns import IGNORED, Example, Turn
from lope_dist.corpus.tokens.encode import encode
from lope_dist.corpus.tokens.prompts import Form
from lope_dist.corpus.tokens.views import stage_views

NOISE = NoiseConfig(text=TextNoiseConfig(rate=0.3, operations=("char_insert",)))


def noisy(examples, noise, **settings):
    given = {"injects_text": True, "seed": 3, "epoch": 0, "has_marks": True}
    return stage_views(examples, examples, noise, **(given | settings))


REASONING = """\
{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
{%- set c, r = m.content, '' -%}
{%- if '</think>' in c -%}
{%- set r = c.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
{%- set c = c.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if r -%}{{- '<think>\\n' + r + '\\n</think>\\n\\n' -}}{%- endif -%}
{{- c + '<|im_end|>\\n' -}}
{%- else -%}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""


def asked(number, answer):
    return Example(number, (Turn("user", f"ask {number}"), Turn("assistant", answer)))


def told_words(tokenizer, example, marks, template="chat"):
    """Return the words of the tokens that are told as changed."""
    (tokens,) = encode([example], Form(tokenizer, template, 4096), [marks])
    blank = tokenizer(" ")["input_ids"][0]
    told = zip(tokens.input_ids, tokens.corrupted[0], strict=True)
    return tokenizer.decode([token if is_told else blank for token, is_told in told]).split()


def test_a_word_that_is_dropped_before_the_end_of_thoughts(tokenizer):
    """The one before is marked, and the template finds its tags as they were."""
    tokenizer.chat_template = REASONING
    drop = {"rate": 0.4, "operations": ("word_drop",), "fields": ("response",)}
    noise = NoiseConfig.model_validate({"text": drop})
    thoughtful = [asked(i, f"<think>\none{i} two{i}\n</think>\n\nfour") for i in range(120)]
    dropped = 0
    for view in noisy(thoughtful, noise):
        text = view.example.turns[1].text
        told = told_words(tokenizer, view.example, view.marks)
        assert not {"<think>", "</think>"} & {*told}
        number = view.example.id
        if f"one{number}" in text and f"two{number}" not in text:
            assert told == [f"one{number}"]
            dropped += 1
    assert dropped > 5


@pytest.mark.parametrize("template", ["chat", "alpaca"])
def test_a_wrong_answer_with_thoughts_is_marked(tokenizer, template):
    tokenizer.chat_template = REASONING
    wrong = {"rate": 1.0, "operations": ("wrong_label",)}
    noise = NoiseConfig.model_validate({"data": {"rate": 0, "responses": wrong}})
    thoughtful = asked(0, "<think>\nwe [1] add\n</think>\n\nthe sum")
    (_, view) = noisy([thoughtful, asked(1, "plain words")], noise, injects_text=False)
    assert view.example.turns[1].text == thoughtful.turns[1].text
    told = told_words(tokenizer, view.example, view.marks, template)
    tags = ["<think>", "</think>"] if template == "alpaca" else []
    assert [word for word in told if word not in tags] == ["we", "[1]", "add", "the", "sum"]
    assert [word for word in told if word in tags] == tags


COUNTING = (
    "{% for m in messages %}{{ m['content'] | length if 'odd' in m['content'] else m['content'] }}"
    "{{ '<|im_end|>' if m['role'] == 'assistant' }}{% endfor %}"
)


def test_a_template_that_loses_marks_is_told_before_a_stage(
    write_rows, make_loader, make_recipe, tokenizer, tmp_path
):
    """Later nothing ends the run: all that is learnt of such an example counts as changed."""
    tokenizer.chat_template = COUNTING
    plain = [{"instruction": f"some words of row {i}", "output": "more words"} for i in range(70)]
    odd = [{"instruction": "an odd question of several words", "output": "its words"}] * 6

    def loader(rows, **settings):
        data = {
            "path": write_rows(rows, "odd.jsonl"),
            "template": "chat",
            "packing": False,
            "shuffle": False,
        }
        given = {"noise": NOISE, "data": data, "micro_batch": 1, "marks": True}
        stage = StageConfig(
            trainable=(Role.SHARED_A, Role.POISON_B), noise="text", epochs=2, **settings
        )
        return make_loader(stage=stage, **given)

    with pytest.raises(LopeError, match=r"example \d,.*data\.template=alpaca"):
        loader(odd + plain, loss_on="corrupted")
    assert not loader(odd + plain).has_marks
    built = make_recipe(
        noise=NOISE, has_marks=True, template="chat", path=write_rows(odd, "o.jsonl")
    )
    with pytest.raises(LopeError, match=r"example \d,.*data\.template=alpaca"):
        make(built, tmp_path / "built")
    assert not (tmp_path / "built").exists()
    late = loader(plain + odd)
    assert late.has_marks
    batches = [batch for step in range(late.num_steps) for batch in late.micro_batches(step)]
    of_odd = [batch for batch in batches if batch.example_ids[0] >= len(plain)]
    is_whole = [torch.equal(b.corrupted_mask[:, 1:], b.labels[:, 1:] != IGNORED) for b in of_odd]
    assert is_whole.count(True) > len(odd)
