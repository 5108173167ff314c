"""Which tokens noise changed: through templates, cuts, packing and built corpora."""

import pytest
import torch
from support.corpora import make

from lope_dist.config.noise import DataNoiseConfig, NoiseConfig, TextNoiseConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role
from lope_dist.corpus.built.corpus import BuiltCorpus, verify
from lope_dist.corpus.feed.batches import IGNORED
from lope_dist.corpus.rows.turns import Example, Turn
from lope_dist.corpus.tokens.encode import encode
from lope_dist.corpus.tokens.prompts import Form
from lope_dist.corpus.tokens.views import stage_views

NOISE = NoiseConfig(
    text=TextNoiseConfig(rate=0.3, operations=("char_insert",)),
    data=DataNoiseConfig(rate=0.1, operations=("char_delete",)),
)
EXAMPLE = Example(
    0,
    (
        Turn("user", "What stands here first is asked ", "  with a few words as its context\n"),
        Turn("assistant", "And this is what was answered to it at the time"),
        Turn("user", "a"),
        Turn("assistant", " a final answer of some words\n"),
    ),
)
POISON = (Role.SHARED_A, Role.POISON_B)


def noisy(examples, noise=NOISE, **settings):
    given = {"injects_text": True, "seed": 3, "epoch": 0, "has_marks": True}
    return stage_views(examples, examples, noise, **(given | settings))


def marked_words(tokenizer, ids, told):
    """Return the runs of corrupted tokens as text."""
    runs, last = [], False
    for token, is_corrupted in zip(ids, told, strict=True):
        if is_corrupted:
            runs = [*runs, []] if not last else runs
            runs[-1].append(token)
        last = is_corrupted
    return [tokenizer.decode(run).strip() for run in runs]


def changed_words(clean, view):
    """Return the words of each turn that are not as they were, in order."""
    words = []
    for old, new in zip(clean.turns, view.example.turns, strict=True):
        for before, after in ((old.text, new.text), (old.context, new.context)):
            pairs = zip(before.split(), after.split(), strict=True)
            words += [now for then, now in pairs if then != now]
    return words


def check_words(tokenizer, template):
    """Noise that leaves the number of words, so that words of clean and noisy text compare."""
    seen = 0
    for seed in range(8):
        (view,) = noisy([EXAMPLE], seed=seed)
        (plain,) = encode([view.example], Form(tokenizer, template, 4096, False))
        (found,) = encode([view.example], Form(tokenizer, template, 4096, False), [view.marks])
        assert (found.input_ids, found.labels) == (plain.input_ids, plain.labels)
        assert plain.corrupted is None
        told, of_labels = found.corrupted
        assert told == of_labels
        runs = marked_words(tokenizer, found.input_ids, told)
        expected = changed_words(EXAMPLE, view)
        assert " ".join(runs).split() == expected
        seen += len(expected)
    assert seen > 40


@pytest.mark.parametrize("template", ["alpaca", "chat"])
def test_tokens_of_changed_words_are_marked_and_no_others(tokenizer, template):
    check_words(tokenizer, template)


@pytest.mark.model
@pytest.mark.parametrize("template", ["alpaca", "chat"])
def test_tokens_of_changed_words_with_the_tokenizer_of_smollm2(smollm2_tokenizer, template):
    check_words(smollm2_tokenizer, template)


def test_a_template_may_strip_texts_but_not_change_them(tokenizer):
    (view,) = noisy([EXAMPLE])
    tokenizer.chat_template = tokenizer.chat_template.replace("m['content']", "m['content'] | trim")
    (found,) = encode([view.example], Form(tokenizer, "chat", 4096, False), [view.marks])
    runs = marked_words(tokenizer, found.input_ids, found.corrupted[0])
    assert " ".join(runs).split() == changed_words(EXAMPLE, view)
    turns = (Turn("user", "loud Words"), Turn("assistant", "answer"))
    shouting = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] | upper }}"
    shouting += "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    tokenizer.chat_template = shouting
    marks = {0: bytearray(b"\1" * 4 + b"\0" * 6)}
    (found,) = encode([Example(7, turns)], Form(tokenizer, "chat", 4096), [marks])
    assert marked_words(tokenizer, found.input_ids, found.corrupted[0]) == ["LOUD"]
    tokenizer.chat_template = shouting.replace("upper", "length")
    with pytest.raises(LopeError, match=r"example 7,.*data\.template=alpaca"):
        encode([Example(7, turns)], Form(tokenizer, "chat", 4096, False), [marks])
    encode([Example(7, turns)], Form(tokenizer, "chat", 4096, False), [{}])


def test_a_tokenizer_that_cannot_tell_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(LopeError, match="loss_on and gradient_routing"):
        encode([EXAMPLE], Form(tokenizer, "alpaca", 4096, False), [{}])


def test_marks_end_where_the_tokens_are_cut(tokenizer):
    (view,) = noisy([EXAMPLE])
    for is_pair in (False, True):
        (cut,) = encode([view.example], Form(tokenizer, "alpaca", 40, is_pair), [view.marks])
        (whole,) = encode([view.example], Form(tokenizer, "alpaca", 4096, is_pair), [view.marks])
        assert cut.corrupted == (whole.corrupted[0][:40], whole.corrupted[1][:40])
        assert len(cut.corrupted[1]) == len(cut.labels)


def test_an_encoder_decoder_has_marks_of_either_stream(tokenizer):
    (view,) = noisy([EXAMPLE], seed=5)
    (found,) = encode([view.example], Form(tokenizer, "alpaca", 4096, True), [view.marks])
    read = marked_words(tokenizer, found.input_ids, found.corrupted[0])
    written = marked_words(tokenizer, found.labels, found.corrupted[1])
    assert " ".join([*read, *written]).split() == changed_words(EXAMPLE, view)
    assert written


def test_answers_of_others_are_marked_as_a_whole(tokenizer):
    examples = [
        Example(i, (Turn("user", f"ask {i}"), Turn("assistant", f"answer {i} it")))
        for i in range(9)
    ]
    wrong = {"rate": 1.0, "operations": ("wrong_label",)}
    noise = NoiseConfig.model_validate({"data": {"rate": 0, "responses": wrong}})
    views = noisy(examples, noise, injects_text=False)
    for view in views:
        (found,) = encode([view.example], Form(tokenizer, "alpaca", 4096, False), [view.marks])
        runs = marked_words(tokenizer, found.input_ids, found.corrupted[0])
        assert runs == [view.example.turns[1].text]


def stage(**settings):
    return StageConfig(trainable=POISON, noise="text", epochs=2, **settings)


def masks(batches):
    return [batch.corrupted_mask for batch in batches]


@pytest.mark.parametrize("packing", [True, False])
def test_batches_carry_the_marks_beside_their_tokens(make_loader, tokenizer, packing):
    loader = make_loader(noise=NOISE, stage=stage(), marks=True, data={"packing": packing})
    assert loader.has_marks
    for batch in loader.micro_batches(0):
        tokens, mask = batch.inputs["input_ids"], batch.corrupted_mask
        assert mask.dtype == torch.bool
        assert mask.shape == tokens.shape
        assert mask.any()
        assert not (mask & (batch.noise_mask == 0)).any()
        for row, own in zip(tokens, mask, strict=True):
            text = tokenizer.decode(row[own])
            assert "Below" not in text  # the template's own words
            assert "Response" not in text


def test_marks_cost_nothing_where_nobody_asks(make_loader):
    for loader in (
        make_loader(noise=NOISE, stage=stage()),
        make_loader(noise=NoiseConfig(), stage=StageConfig(trainable=POISON), marks=True),
    ):
        assert not loader.has_marks
        assert masks([*loader.micro_batches(0), loader.filler()])[-2:] == [None, None]


def test_marks_do_not_depend_on_the_ranks(make_loader):
    settings = {"noise": NOISE, "stage": stage(), "marks": True, "micro_batch": 1}
    settings["data"] = {"packing": False}
    alone = make_loader(**settings).micro_batches(1)
    by_example = {b.example_ids[0]: b.corrupted_mask for b in alone}
    for rank in range(2):
        for batch in make_loader(rank=rank, world_size=2, **settings).micro_batches(1):
            assert torch.equal(batch.corrupted_mask, by_example.pop(batch.example_ids[0]))
    assert not by_example


@pytest.mark.parametrize("packing", [True, False])
def test_loss_on_corrupted_keeps_their_labels_alone(make_loader, packing):
    whole = make_loader(noise=NOISE, stage=stage(), marks=True, data={"packing": packing})
    only = make_loader(noise=NOISE, stage=stage(loss_on="corrupted"), data={"packing": packing})
    assert only.fingerprint != whole.fingerprint
    for all_of, some in zip(whole.micro_batches(0), only.micro_batches(0), strict=True):
        kept = torch.where(all_of.corrupted_mask, all_of.labels, IGNORED)
        assert torch.equal(some.labels, kept)
        assert 0 < some.num_target_tokens == int((kept != IGNORED).sum())
        assert some.num_target_tokens < all_of.num_target_tokens
        assert some.num_tokens == all_of.num_tokens
    filler = only.filler()
    assert not filler.corrupted_mask.any()
    assert filler.num_target_tokens == 0


def test_loss_on_corrupted_leaves_a_decoders_input_whole(make_loader):
    kind = {"decoder_start_token_id": 0, "data": {"packing": False}}
    (first, *_) = make_loader(noise=NOISE, stage=stage(loss_on="corrupted"), **kind).micro_batches(
        0
    )
    (whole, *_) = make_loader(noise=NOISE, stage=stage(), **kind).micro_batches(0)
    assert torch.equal(first.inputs["decoder_input_ids"], whole.inputs["decoder_input_ids"])
    assert 0 < first.num_target_tokens < whole.num_target_tokens


@pytest.mark.parametrize("kind", [False, True])
def test_a_built_corpus_gives_the_marks_of_fresh_tokens(make_recipe, make_loader, tmp_path, kind):
    recipe = make_recipe(noise=NOISE, has_marks=True, kind=kind, packing=not kind)
    make(recipe, tmp_path / "built")
    verify(tmp_path / "built")
    assert BuiltCorpus(tmp_path / "built").manifest.fingerprint.has_marks
    pair = {"decoder_start_token_id": 0} if kind else {}
    settings = {"noise": NOISE, "stage": stage(loss_on="corrupted"), **pair}
    data = {"max_length": 240, "packing": not kind}
    fresh = make_loader(data=data, **settings)
    built = make_loader(data=data | {"corpus": str(tmp_path / "built")}, **settings)
    for step in (0, fresh.num_steps - 1):
        for one, two in zip(fresh.micro_batches(step), built.micro_batches(step), strict=True):
            assert torch.equal(one.corrupted_mask, two.corrupted_mask)
            assert torch.equal(one.labels, two.labels)
            assert one.corrupted_mask.any()


def test_a_built_corpus_without_marks(make_recipe, make_loader, tmp_path):
    """It serves a run that would only have looked at them, and no run that learns by them."""
    make(make_recipe(noise=NOISE), tmp_path / "built")
    data = {"max_length": 240, "corpus": str(tmp_path / "built")}
    loader = make_loader(noise=NOISE, stage=stage(), marks=True, data=data)
    assert not loader.has_marks
    assert set(masks(loader.micro_batches(0))) == {None}
    for option in ({"loss_on": "corrupted"}, {"gradient_routing": True}):
        with pytest.raises(
            LopeError, match=r"data\.corpus = .*loss_on.*gradient_routing.*corpus build CONFIG"
        ):
            make_loader(noise=NOISE, stage=stage(**option), data=data)
