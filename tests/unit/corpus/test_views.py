import numpy as np
import pytest

from lope_dist.config.noise import DataNoiseConfig, NoiseConfig, TextNoiseConfig
from lope_dist.corpus.prompts import alpaca_prompt, render
from lope_dist.corpus.turns import Example, Turn
from lope_dist.corpus.views import noisy, stage_view

WORDS = " ".join(f"word{i}" for i in range(30))
EXAMPLE = Example(
    17,
    (
        Turn("system", WORDS),
        Turn("user", WORDS, WORDS),
        Turn("assistant", WORDS),
        Turn("user", WORDS),
        Turn("assistant", WORDS),
    ),
)


def changed_parts(example):
    return {
        (turn.role, name)
        for turn in example.turns
        for name in ("text", "context")
        if getattr(turn, name) not in (WORDS, "")
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (("instruction",), {("user", "text")}),
        (("input",), {("user", "context")}),
        (("response",), {("assistant", "text")}),
        (
            ("instruction", "input", "response"),
            {("user", "text"), ("user", "context"), ("assistant", "text")},
        ),
    ],
)
def test_only_the_configured_fields_change(fields, expected):
    config = TextNoiseConfig(rate=0.9, fields=fields)
    result = noisy(EXAMPLE, config, np.random.default_rng(0))
    assert changed_parts(result) == expected
    assert result.turns[0] == EXAMPLE.turns[0]
    assert [t.role for t in result.turns] == [t.role for t in EXAMPLE.turns]
    assert result.id == EXAMPLE.id
    if "instruction" in fields:
        assert result.turns[1].text != WORDS
        assert result.turns[3].text != WORDS


@pytest.mark.parametrize("template", ["alpaca", "chat"])
def test_noise_never_touches_the_template(tokenizer, template):
    """With its own texts cut out, the rendering of a noisy example equals the clean one's."""
    config = TextNoiseConfig(rate=1.0)
    clean = Example(0, (Turn("user", WORDS, WORDS), Turn("assistant", WORDS)))
    result = noisy(clean, config, np.random.default_rng(3))

    def skeleton(example):
        skeletons = []
        for piece in render(example, template, tokenizer):
            text = piece.text
            for turn in example.turns:
                for own in (turn.text, turn.context):
                    if own and own in text:
                        text = text.replace(own, "#")
            skeletons.append((text, piece.is_target))
        return skeletons

    assert skeleton(result) == skeleton(clean)
    assert [p.text for p in render(result, template, tokenizer)] != [
        p.text for p in render(clean, template, tokenizer)
    ]
    if template == "alpaca":
        turn = result.turns[0]
        assert render(result, template, tokenizer)[0].text == alpaca_prompt(turn.text, turn.context)


NOISE = NoiseConfig(text=TextNoiseConfig(rate=0.5), data=DataNoiseConfig(rate=0.5))


def view(epoch=0, injects_text=True, noise=NOISE, seed=1, example=EXAMPLE):
    return stage_view(example, noise, injects_text=injects_text, seed=seed, epoch=epoch)


def test_the_datas_noise_is_the_same_in_every_epoch_and_stage():
    assert view(epoch=0, injects_text=False) == view(epoch=5, injects_text=False) != EXAMPLE


def test_the_stages_noise_is_new_in_every_epoch_and_over_the_datas():
    assert view(epoch=0) == view(epoch=0)
    assert view(epoch=0) != view(epoch=1)
    own = view(injects_text=False)
    text_only = NOISE.model_copy(update={"data": TextNoiseConfig(rate=0.0)})
    assert view() == view(example=own, noise=text_only)


def test_no_noise_is_the_example_itself():
    none = NoiseConfig(text=TextNoiseConfig(rate=0.5))
    assert view(injects_text=False, noise=none) is EXAMPLE
    assert view(seed=1) != view(seed=2)
