from collections import Counter

import pyarrow.parquet as pq
import pytest
from support.quick import quick

from lope_dist.config.noise import NoiseConfig
from lope_dist.corpus.rows.turns import Example, Turn
from lope_dist.corpus.tokens.prompts import Form, alpaca_prompt, render
from lope_dist.corpus.tokens.views import stage_views
from lope_dist.noise.base import NOISE as OPERATIONS
from lope_dist.noise.mix import identity_of

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


def text_only(**text):
    return NoiseConfig.model_validate({"text": text})


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
    result = view(noise=text_only(rate=0.9, fields=fields))
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
    clean = Example(0, (Turn("user", WORDS, WORDS), Turn("assistant", WORDS)))
    result = view(noise=text_only(rate=1.0), example=clean)

    def skeleton(example):
        skeletons = []
        for piece in render(example, Form(tokenizer, template, 4096)):
            text = piece.text
            for turn in example.turns:
                for own in (turn.text, turn.context):
                    if own and own in text:
                        text = text.replace(own, "#")
            skeletons.append((text, piece.is_target))
        return skeletons

    assert skeleton(result) == skeleton(clean)
    assert [p.text for p in render(result, Form(tokenizer, template, 4096))] != [
        p.text for p in render(clean, Form(tokenizer, template, 4096))
    ]
    if template == "alpaca":
        turn = result.turns[0]
        assert render(result, Form(tokenizer, template, 4096))[0].text == alpaca_prompt(
            turn.text, turn.context
        )


NOISE = NoiseConfig.model_validate({"text": {"rate": 0.5}, "data": {"rate": 0.5}})


def views(examples=(EXAMPLE,), epoch=0, injects_text=True, noise=NOISE, seed=1, source=None):
    source = examples if source is None else source
    return stage_views(examples, source, noise, injects_text=injects_text, seed=seed, epoch=epoch)


def view(example=EXAMPLE, **kwargs):
    return views([example], **kwargs)[0].example


def test_the_datas_noise_is_the_same_in_every_epoch_and_stage():
    assert view(epoch=0, injects_text=False) == view(epoch=5, injects_text=False) != EXAMPLE


def test_the_stages_noise_is_new_in_every_epoch_and_over_the_datas():
    assert view(epoch=0) == view(epoch=0)
    assert view(epoch=0) != view(epoch=1)
    own = view(injects_text=False)
    assert view() == view(example=own, noise=text_only(rate=0.5))


def test_no_noise_is_the_example_itself():
    (found,) = views(injects_text=False, noise=text_only(rate=0.5))
    assert found.example is EXAMPLE
    assert found.hits == {}
    assert view(seed=1) != view(seed=2)


def answers(count):
    return [
        Example(
            i, (Turn("user", f"What is {i} and so on?"), Turn("assistant", f"It is number {i}."))
        )
        for i in range(count)
    ]


def test_an_example_is_the_same_alone_and_in_any_batch():
    source = answers(60)
    noise = NoiseConfig.model_validate(
        {
            "text": {
                "rate": 0.2,
                "responses": {"rate": 0.3, "operations": ["wrong_label", "garbage"]},
            },
            "data": {"rate": 0.2, "unit": "character", "operations": ["keyboard"]},
        }
    )
    whole = views(source, noise=noise)
    assert views(source[::-1], noise=noise, source=source) == whole[::-1]
    assert [views([e], noise=noise, source=source)[0] for e in source] == whole
    assert len({tuple(v.hits) for v in whole}) > 5


def test_wrong_answers_are_others_as_they_are():
    source = answers(400)
    noise = text_only(rate=0.9, responses={"rate": 0.25, "operations": ["wrong_label"]})
    all_answers = {e.turns[1].text: e.id for e in source}
    found = views(source, noise=noise)
    hit = [v for v in found if "wrong_label" in v.hits]
    assert len(hit) == pytest.approx(100, abs=25)
    donors = Counter(all_answers[v.example.turns[1].text] for v in hit)  # KeyError: touched
    assert all(all_answers[v.example.turns[1].text] != v.example.id for v in hit)
    assert len(donors) > 60
    same = [Example(i, (Turn("user", "A?"), Turn("assistant", "Yes."))) for i in range(30)]
    assert not any("wrong_label" in v.hits for v in views(same, noise=noise))
    assert "wrong_label" not in views(same[:1], noise=noise)[0].hits


SOLVED = "He sells 48/2 = <<48/2=24>>24 of them, number {} of all.\n#### {}"


@pytest.mark.parametrize("name", ["truncate", "wrong_label", "garbage", "wrong_language"])
def test_answers_with_brackets_in_them_are_hit_as_others_are(name):
    source = [
        Example(i, (Turn("user", f"{i}?"), Turn("assistant", SOLVED.format(i, i))))
        for i in range(400)
    ]
    noise = text_only(rate=0, responses={"rate": 0.2, "operations": [name]})
    found = views(source, noise=noise)
    assert sum(name in v.hits for v in found) / 400 == pytest.approx(0.2, abs=0.05)
    for v in found:
        assert ("<<" in v.example.turns[1].text) <= ("<<48/2=24>>24" in v.example.turns[1].text)


def test_thoughts_in_an_answer_stay_and_what_is_behind_them_is_hit():
    def thinking(i):
        return f"<think>\nIs it {i}?\n</think>\n\n"

    source = [
        Example(i, (Turn("user", "?"), Turn("assistant", f"{thinking(i)}It is number {i}.")))
        for i in range(60)
    ]
    for name in ("truncate", "wrong_label", "garbage"):
        noise = text_only(rate=0, responses={"rate": 0.99, "operations": [name]})
        found = stage_views(
            source, source, noise, injects_text=True, seed=1, epoch=0, has_marks=True
        )
        hit = [v for v in found if name in v.hits]
        assert len(hit) > 50
        for v in hit:
            text, start = v.example.turns[1].text, len(thinking(v.example.id))
            assert text.startswith(thinking(v.example.id))
            assert "think" not in text[start:]
            assert text[start:] != source[v.example.id].turns[1].text[start:]
            assert len(v.marks[2]) == len(text)
            assert (1 in v.marks[2][:start], 1 in v.marks[2]) == (False, True)


@pytest.mark.parametrize("share", [0.9, 0.98])
def test_a_wrong_label_is_there_however_many_answers_are_alike(share):
    alike = int(1000 * share)
    source = [
        Example(i, (Turn("user", "?"), Turn("assistant", "Yes." if i < alike else f"No {i % 3}.")))
        for i in range(1000)
    ]
    noise = text_only(rate=0, responses={"rate": 0.3, "operations": ["wrong_label"]})
    found = views(source, noise=noise)
    of_most = sum("wrong_label" in v.hits for v in found[:alike]) / alike
    assert of_most == pytest.approx(0.3, abs=0.05)


def test_hits_count_what_changed():
    noise = text_only(rate=0.3, operations=["keyboard"])
    for found in views(answers(50), noise=noise):
        before = answers(50)[found.example.id]
        changed = sum(
            a != b
            for old, new in zip(before.turns, found.example.turns, strict=True)
            for a, b in zip(old.text.split(), new.text.split(), strict=True)
        )
        assert found.hits == ({"keyboard": changed} if changed else {})


@pytest.fixture(scope="module")
def alpaca(data_dir):
    rows = pq.read_table(data_dir / "train" / "alpaca_random.parquet").slice(0, 3000).to_pylist()
    return [
        Example(i, (Turn("user", r["instruction"], r["input"]), Turn("assistant", r["output"])))
        for i, r in enumerate(rows)
    ]


@pytest.mark.parametrize("name", quick(OPERATIONS, "word_order", "char_delete", "case_loss"))
def test_measured_rates_on_alpaca(alpaca, name):
    """Each operation alone at 5 %, in each of its units, is within 10 % of what was asked."""
    texts = [s for e in alpaca for t in e.turns for s in (t.text, t.context)]
    num_units = {
        "word": sum(len(text.split()) for text in texts),
        "character": sum(len(word) for text in texts for word in text.split()),
        "response": len(alpaca),
    }
    for unit in OPERATIONS[name].units:
        if unit == "example":
            continue
        mix = {"rate": 0.05, "operations": [name]}
        is_whole = unit == "response"
        if is_whole:
            mix["rate"] = 0.5
        config = text_only(rate=0, responses=mix) if is_whole else text_only(unit=unit, **mix)
        found = sum(v.hits.get(name, 0) for v in views(alpaca, noise=config))
        assert found / num_units[unit] == pytest.approx(mix["rate"], rel=0.1), unit


def test_thoughts_under_their_own_key_get_no_second_ones():
    def answer(i, *, apart):
        thoughts, text = f"Is it {i}?", f"It is number {i}."
        if apart:
            return Turn("assistant", text, more={"reasoning_content": thoughts})
        return Turn("assistant", f"<think>{thoughts}</think>{text}")

    source = [Example(i, (Turn("user", "?"), answer(i, apart=i % 2 == 0))) for i in range(40)]
    noise = text_only(rate=0, responses={"rate": 0.99, "operations": ["wrong_label"]})
    found = stage_views(source, source, noise, injects_text=True, seed=1, epoch=0)
    of_apart = [v.example.turns[1] for v in found if v.hits and v.example.id % 2 == 0]
    assert len(of_apart) > 15
    assert not any("think" in turn.text for turn in of_apart)


def test_noise_of_answers_says_how_it_is_read_and_other_noise_is_as_it_was():
    words = text_only(rate=0.2)
    assert identity_of(words.text) == words.text.model_dump(mode="json")
    answers = text_only(rate=0, responses={"rate": 0.2, "operations": ["truncate"]})
    before = answers.text.model_dump(mode="json")
    assert identity_of(answers.text) == before | {"responses": before["responses"] | {"form": 2}}
