import pytest
from support.row_files import write_rows
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lope_dist.config.data import DataConfig
from lope_dist.corpus.examples.source import open_source
from lope_dist.corpus.rows.turns import Example, Turn
from lope_dist.corpus.tokens.encode import IGNORED
from lope_dist.corpus.tokens.encode import encode as encode_all
from lope_dist.corpus.tokens.prompts import Form, render

EXAMPLE = Example(
    3,
    (
        Turn("user", "Wörds 👩‍👧 first", "context"),
        Turn("assistant", "\n The ánswer\n"),
        Turn("user", "second"),
        Turn("assistant", "done"),
    ),
)


def encode(example, *settings):
    (tokenized,) = encode_all([example], *settings)
    return tokenized


def targets(tokenized):
    """Return the runs of target tokens, checked to be equal to the input tokens."""
    runs, last = [], None
    for index, (token, label) in enumerate(zip(tokenized.input_ids, tokenized.labels, strict=True)):
        if label != IGNORED:
            assert label == token
            if last != index - 1:
                runs.append([])
            runs[-1].append(token)
            last = index
    return runs


def check_labels(tokenizer, template):
    tokenized = encode(EXAMPLE, Form(tokenizer, template, 4096, False))
    assert [tokenizer.decode(run) for run in targets(tokenized)] == [
        "\n The ánswer\n<|im_end|>",
        "done<|im_end|>",
    ]
    whole = "".join(piece.text for piece in render(EXAMPLE, Form(tokenizer, template, 4096)))
    assert tokenizer.decode(tokenized.input_ids) == whole
    assert not tokenized.was_cut
    assert tokenized.example_id == 3
    assert tokenized.input_ids[-1] == tokenized.labels[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("template", ["alpaca", "chat"])
def test_labels_are_the_answers_and_their_ends(tokenizer, template):
    check_labels(tokenizer, template)


@pytest.mark.model
@pytest.mark.parametrize("template", ["alpaca", "chat"])
def test_labels_with_the_tokenizer_of_smollm2(smollm2_tokenizer, template):
    check_labels(smollm2_tokenizer, template)
    if template == "chat":
        plain = Example(0, (Turn("user", "hi there"), Turn("assistant", "Yes, hello.")))
        ids = smollm2_tokenizer.apply_chat_template(
            [{"role": t.role, "content": t.text} for t in plain.turns], return_dict=False
        )
        ours = encode(plain, Form(smollm2_tokenizer, "chat", 4096, False)).input_ids
        assert list(ids)[: len(ours)] == ours
        assert smollm2_tokenizer.decode(list(ids)[len(ours) :]) == "\n"


@pytest.mark.parametrize("template", ["alpaca", "chat"])
def test_the_prompt_has_the_tokens_of_inference(tokenizer, template):
    tokenized = encode(EXAMPLE, Form(tokenizer, template, 4096, False))
    prompt = tokenizer(
        render(EXAMPLE, Form(tokenizer, template, 4096))[0].text, add_special_tokens=False
    )
    length = len(prompt["input_ids"])
    assert tokenized.input_ids[:length] == prompt["input_ids"]
    assert tokenized.labels[:length] == [IGNORED] * length
    assert tokenized.labels[length] != IGNORED


def test_a_long_example_is_cut_and_may_lose_its_targets(tokenizer):
    whole = encode(EXAMPLE, Form(tokenizer, "alpaca", 4096, False))
    cut = encode(EXAMPLE, Form(tokenizer, "alpaca", 40, False))
    assert cut.was_cut
    assert cut.input_ids == whole.input_ids[:40]
    assert cut.labels == [IGNORED] * 40
    exact = encode(EXAMPLE, Form(tokenizer, "alpaca", len(whole.input_ids)))
    assert not exact.was_cut


def sentencepiece_tokenizer():
    """A tokenizer that puts a blank before every text, and <s> before it, as Llama 2 does."""
    pieces = ["<s>", "</s>", "▁", "\n", *map(chr, range(33, 127)), "▁yes", "yes"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [("y", "e"), ("ye", "s"), ("▁", "yes")]
    vocab["ye"] = len(vocab)
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="never")
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def test_answers_are_tokenized_as_continuations():
    tokenizer = sentencepiece_tokenizer()
    turns = (Turn("user", "ok"), Turn("assistant", "yes"))
    tokenized = encode(Example(0, turns), Form(tokenizer, "alpaca", 4096, False))
    (run,) = targets(tokenized)
    assert tokenizer.convert_ids_to_tokens(run) == ["yes", "</s>"]
    assert tokenized.input_ids.count(tokenizer.bos_token_id) == 1
    assert tokenized.input_ids[0] == tokenizer.bos_token_id


def test_encoder_decoder_reads_the_prompt_and_writes_the_last_answer(tokenizer):
    tokenized = encode(EXAMPLE, Form(tokenizer, "alpaca", 4096, True))
    assert tokenizer.decode(tokenized.labels) == "done<|im_end|>"
    before = render(EXAMPLE, Form(tokenizer, "alpaca", 4096))[:-1]
    assert tokenizer.decode(tokenized.input_ids) == "".join(piece.text for piece in before)
    cut = encode(EXAMPLE, Form(tokenizer, "alpaca", 16, True))
    assert (len(cut.input_ids), len(cut.labels), cut.was_cut) == (16, 5, True)


@pytest.mark.parametrize("template", ["alpaca", "chat"])
def test_an_encoder_decoder_learns_every_answer(tokenizer, template, tmp_path):
    said = ["one", "two", "three", "four"]
    turns = [{"role": role, "content": text} for text in said for role in ("user", "assistant")]
    turns[3]["weight"] = 0  # the second answer is shown alone
    rows = [{"messages": turns}, {"messages": turns[:2]}]
    path = write_rows(tmp_path / "x.jsonl", rows)
    form = Form(tokenizer, template, 4096, True)
    source = open_source(DataConfig(path=str(path), template=template), form)
    tokens = [encode(example, form) for example in source.read()]
    decoded = [tokenizer.decode(t.labels) for t in tokens]
    assert [text.split("<")[0].strip() for text in decoded] == ["one", "three", "four", "one"]
    inputs = [tokenizer.decode(t.input_ids) for t in tokens]
    assert [text.count("two") for text in inputs] == [0, 2, 2, 0]
    assert (source.account.split, source.account.target_tokens) == (
        1,
        sum(len(t.labels) for t in tokens),
    )


@pytest.mark.parametrize("is_encoder_decoder", [False, True])
@pytest.mark.parametrize("template", ["alpaca", "chat"])
def test_examples_are_encoded_together_as_alone(tokenizer, template, is_encoder_decoder):
    turns = EXAMPLE.turns
    examples = [EXAMPLE, Example(4, turns[:2]), Example(9, turns[2:])]
    settings = (Form(tokenizer, template, 90, is_encoder_decoder),)
    together = encode_all(examples, *settings)
    assert together == [encode(example, *settings) for example in examples]
    assert [t.was_cut for t in together] == [True, *[t.was_cut for t in together[1:]]]
    assert encode_all([], *settings) == []


def test_pieces_that_merge_with_the_anchor_are_found_among_many(tokenizer):
    """Two line breaks are one token here, so the anchor cannot be taken off."""
    answers = ["\n starts with a break", "plain", "\n\n two"]
    examples = [
        Example(i, (Turn("user", "q"), Turn("assistant", text))) for i, text in enumerate(answers)
    ]
    for text, tokenized in zip(
        answers, encode_all(examples, Form(tokenizer, "alpaca", 999)), strict=True
    ):
        assert tokenizer.decode(targets(tokenized)[0]) == text + tokenizer.eos_token
