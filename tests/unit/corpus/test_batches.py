import numpy as np
import pytest
import torch
from support.tiny import small_llama
from transformers import T5Config, T5ForConditionalGeneration

from lope_dist.core.seeds import token_keys
from lope_dist.corpus.feed.batches import build_batch, even_rows, without_content
from lope_dist.corpus.tokens.encode import IGNORED, Tokenized

PAD = 0


def example(example_id, length, num_targets=2):
    ids = [10 + (example_id * 31 + i) % 50 for i in range(length)]
    return Tokenized(
        example_id,
        ids,
        [IGNORED] * (length - num_targets) + ids[length - num_targets :],
        was_cut=False,
    )


EXAMPLES = [example(4, 5), example(9, 3), example(2, 7), example(7, 1, 1), example(5, 4)]
PACKED = [[EXAMPLES[0], EXAMPLES[1]], [EXAMPLES[2], EXAMPLES[3]], [EXAMPLES[4]]]


def packed():
    return build_batch(PACKED, is_packed=True, pad_id=PAD, seed=1, epoch=0)


def padded():
    return build_batch([[e] for e in EXAMPLES], is_packed=False, pad_id=PAD, seed=1, epoch=0)


def test_packed_rows():
    batch = packed()
    assert batch.inputs["input_ids"].shape == (3, 8)
    assert batch.inputs["position_ids"].tolist() == [
        [0, 1, 2, 3, 4, 0, 1, 2],
        [0, 1, 2, 3, 4, 5, 6, 0],
        [0, 1, 2, 3, 0, 1, 2, 3],
    ]
    assert "attention_mask" not in batch.inputs
    assert batch.noise_mask.tolist() == [[1] * 8, [1] * 8, [1] * 4 + [0] * 4]
    assert batch.example_ids == (4, 9, 2, 7, 5)
    assert batch.num_tokens == 20


def test_padding_is_outside_every_mask():
    for batch in (packed(), padded()):
        is_padding = batch.noise_mask == 0
        assert is_padding.any()
        assert (batch.inputs["input_ids"][~is_padding] != PAD).all()
        assert (batch.labels[is_padding] == IGNORED).all()
        assert (batch.token_keys["decoder"][is_padding] == 0).all()
    assert torch.equal(padded().inputs["attention_mask"], padded().noise_mask)
    ids = padded().inputs["input_ids"]
    assert (ids[padded().noise_mask == 0] == PAD).all()


def test_what_fills_a_packed_row_is_no_padding_token():
    """It sees itself alone, and a padding token's embedding may be zero, without a gradient."""
    batch = packed()
    ids, is_padding = batch.inputs["input_ids"], batch.noise_mask == 0
    assert not (ids == PAD).any()
    assert torch.equal(ids[is_padding], ids[:, :1].expand_as(ids)[is_padding])


def test_the_first_token_of_an_example_is_no_target():
    """Example 7 has one token and it is a target: nothing before it could predict it."""
    for batch in (packed(), padded()):
        assert batch.num_target_tokens == 8
        # What is left after the causal shift is what was counted.
        assert int((batch.labels[:, 1:] != IGNORED).sum()) == 8
        assert batch.labels.dtype == torch.int64
    assert packed().labels[1, 7] == IGNORED


def test_token_keys_depend_on_neither_packing_nor_padding():
    expected = {e.example_id: token_keys(1, "token-noise", 0, e.example_id, len(e.input_ids))
                for e in EXAMPLES}  # fmt: skip
    for batch in (packed(), padded()):
        keys = batch.token_keys["decoder"][batch.noise_mask.bool()]
        joined = torch.cat([torch.from_numpy(expected[i]) for i in batch.example_ids])
        assert torch.equal(keys, joined)
        assert keys.dtype == torch.int32
    other = build_batch(PACKED, is_packed=True, pad_id=PAD, seed=1, epoch=1)
    assert (other.token_keys["decoder"] != packed().token_keys["decoder"]).sum() == 20


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_packed_logits_are_the_unpacked_ones(attention):
    model = small_llama(vocab_size=64, attn_implementation=attention)
    alone = {
        e.example_id: model(torch.tensor([e.input_ids]), use_cache=False).logits[0]
        for e in EXAMPLES
    }
    for batch in (packed(), padded()):
        logits = model(**batch.inputs, use_cache=False).logits
        assert torch.isfinite(logits).all()
        real = logits[batch.noise_mask.bool()]
        joined = torch.cat([alone[i] for i in batch.example_ids])
        torch.testing.assert_close(real, joined, atol=1e-5, rtol=1e-5)


def pairs():
    first = Tokenized(3, [11, 12, 13, 1], [21, 1], False)
    return build_batch(
        [[first], [Tokenized(8, [14, 1], [22, 23, 1], False)]],
        is_packed=False,
        pad_id=PAD,
        decoder_start_token_id=7,
        seed=1,
        epoch=2,
    )


def test_pairs():
    batch = pairs()
    assert batch.inputs["input_ids"].tolist() == [[11, 12, 13, 1], [14, 1, 0, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.inputs["decoder_input_ids"].tolist() == [[7, 21, 0], [7, 22, 23]]
    assert batch.inputs["decoder_attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.labels.tolist() == [[21, 1, IGNORED], [22, 23, 1]]
    assert torch.equal(batch.noise_mask, batch.inputs["attention_mask"])
    assert (batch.num_target_tokens, batch.num_tokens) == (5, 11)
    keys = token_keys(1, "token-noise", 2, 8, 2).tolist()
    assert batch.token_keys["encoder"][1].tolist() == [*keys, 0, 0]
    assert batch.token_keys["decoder"].shape == (2, 3)
    assert batch.token_keys["decoder"][1, 0] != keys[0]


@torch.no_grad()
def test_pairs_give_the_loss_that_transformers_computes():
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        decoder_start_token_id=7,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval()
    batch = pairs()
    logits = model(**batch.inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
    reference = model(
        input_ids=batch.inputs["input_ids"],
        attention_mask=batch.inputs["attention_mask"],
        labels=batch.labels,
    ).loss
    torch.testing.assert_close(loss, reference)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("is_packed", [True, False])
def test_a_batch_without_content_teaches_nothing(attention, is_packed):
    model = small_llama(vocab_size=64, attn_implementation=attention)
    rows = [[example(0, 2)]]
    batch = without_content(build_batch(rows, is_packed=is_packed, pad_id=PAD, seed=1, epoch=0))
    assert (batch.num_tokens, batch.num_target_tokens, batch.example_ids) == (0, 0, ())
    assert not batch.noise_mask.any()
    logits = model(**batch.inputs, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), reduction="sum"
    )
    loss.backward()
    assert loss == 0
    assert all((p.grad == 0).all() for p in model.parameters())


def test_a_batch_moves():
    moved = padded().to("meta")
    masks = (moved.noise_mask, moved.example_lengths, *moved.token_keys.values())
    assert {t.device.type for t in (*moved.inputs.values(), moved.labels, *masks)} == {"meta"}


def test_rows_are_few_and_even():
    assert even_rows([5, 4, 3, 6, 2], 12) == [[0, 1], [2, 3, 4]]
    assert even_rows([5, 4, 3, 6, 2], 20) == [[0, 1, 2, 3, 4]]
    assert even_rows([], 8) == []
    assert even_rows([8] * 3, 8) == [[0], [1], [2]]


def test_rows_that_even_ones_would_overflow_are_filled_first_fit():
    """The shortest row would get both 2s, and the last one has no room for a 3."""
    lengths, capacity = [3, 3, 2, 2, 2], 6
    assert even_rows(lengths, capacity) == [[0, 1], [2, 3, 4]]


def test_rows_hold_every_example_once_and_never_too_much():
    random = np.random.default_rng(0)
    for _ in range(200):
        lengths = random.integers(1, 101, random.integers(1, 40)).tolist()
        rows = even_rows(lengths, 100)
        assert sorted(index for row in rows for index in row) == [*range(len(lengths))]
        sizes = [sum(lengths[index] for index in row) for row in rows]
        assert max(sizes) <= 100
        assert sum(sizes) > 50 * (len(rows) - 1)


def test_short_examples_pad_little():
    """A batch is as wide as its longest row, and the last of rows filled one by one is short."""
    random = np.random.default_rng(0)
    for count in (10, 16, 32):
        lengths = random.integers(10, 60, count).tolist()
        sizes = [sum(lengths[index] for index in row) for row in even_rows(lengths, 256)]
        assert len(sizes) > 1
        assert len(sizes) * max(sizes) < 1.04 * sum(sizes)
