from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lope_dist.adapters.batch import BatchDescription
from lope_dist.adapters.context import AdapterContext, StageDescription
from lope_dist.adapters.counter_noise import salt_of, uniform
from lope_dist.adapters.embedding_noise import install, noisy_embeddings
from lope_dist.config.adapter import CompensationConfig
from lope_dist.config.noise import EmbeddingNoiseConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.feed.batches import build_batch
from lope_dist.corpus.tokens.encode import Tokenized

KeysOf = Callable[[list[int], int], Tensor]
IDS = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
NEFTUNE = EmbeddingNoiseConfig(alpha=5, scale="neftune")


def attach(model: nn.Module, keys: dict[str, Tensor], stream: str = "decoder") -> AdapterContext:
    context = AdapterContext(
        num_normal=3, num_poison=1, compensation=CompensationConfig(), noise_stream=stream
    )
    install(model, context, seed=9)
    context.begin_batch(BatchDescription(keys, MASK))
    return context


def add_noise(context: AdapterContext, alpha: float) -> None:
    noise = EmbeddingNoiseConfig(alpha=alpha)
    context.begin_stage(StageDescription(embedding_noise=noise))


def test_noise_is_the_formula_on_real_tokens_and_nothing_on_padding(
    llama: nn.Module, keys_of: KeysOf
) -> None:
    keys = keys_of([5, 3], 5)
    keys[1, 3:] = 123  # even where padding has a key
    context = attach(llama, {"decoder": keys})
    embedding = llama.get_input_embeddings()
    clean = embedding(IDS)
    add_noise(context, 0.05)
    noise = embedding.train()(IDS) - clean
    expected = 0.05 * uniform(keys, salt_of(9, "embedding_noise"), 32) * MASK[..., None]
    torch.testing.assert_close(noise, expected, atol=1e-6, rtol=0)
    assert torch.equal(embedding(IDS)[1, 3:], clean[1, 3:])
    assert (noise[MASK.bool()].abs().amax(-1) > 0.03).all()
    assert noise.abs().max() <= 0.05


def test_noise_is_off_in_eval_and_without_the_setting(llama: nn.Module, keys_of: KeysOf) -> None:
    clean = llama(IDS, attention_mask=MASK).logits
    context = attach(llama, {"decoder": keys_of([5, 3], 5)})
    assert torch.equal(llama.train()(IDS, attention_mask=MASK).logits, clean)
    add_noise(context, 0.5)
    assert not torch.equal(llama(IDS, attention_mask=MASK).logits, clean)
    assert torch.equal(llama.eval()(IDS, attention_mask=MASK).logits, clean)
    add_noise(context, 0.0)
    assert torch.equal(llama.train()(IDS, attention_mask=MASK).logits, clean)


def test_noise_does_not_depend_on_batch_or_padding(keys_of: KeysOf) -> None:
    keys, E, config = keys_of([5, 3], 5), torch.randn(2, 5, 8), EmbeddingNoiseConfig(alpha=0.5)
    whole = noisy_embeddings(E, keys, MASK, config, 1)
    alone = noisy_embeddings(E[1:, :3], keys[1:, :3], MASK[1:, :3], config, 1)
    assert torch.equal(alone, whole[1:, :3])


def test_neftune_divides_by_the_root_of_real_length_and_width(keys_of: KeysOf) -> None:
    keys, E = keys_of([5, 3], 5), torch.zeros(2, 5, 8)
    lengths = MASK.sum(1, keepdim=True) * MASK
    paper = noisy_embeddings(E, keys, MASK, EmbeddingNoiseConfig(alpha=5), 1)
    neftune = noisy_embeddings(E, keys, MASK, NEFTUNE, 1, lengths)
    torch.testing.assert_close(neftune[0], paper[0] / (5 * 8) ** 0.5)
    torch.testing.assert_close(neftune[1], paper[1] / (3 * 8) ** 0.5)


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("behind", [0, 1])
def test_neftune_noise_does_not_depend_on_what_shares_the_row(
    llama: nn.Module, before: int, behind: int
) -> None:
    """A shorter row beside it is padded, which changes nothing either."""
    lengths = {7: 6, 1: 3, 2: 9, 3: 4, 4: 20}
    made = {n: Tokenized(n, [5 + n] * t, [5 + n] * t, was_cut=False) for n, t in lengths.items()}
    context = attach(llama, {})
    context.begin_stage(StageDescription(embedding_noise=NEFTUNE))

    def embedded(rows: list[list[Tokenized]], is_packed: bool) -> Tensor:
        batch = build_batch(rows, is_packed=is_packed, pad_id=0, seed=1, epoch=2)
        context.begin_batch(batch.description())
        return llama.get_input_embeddings().train()(batch.inputs["input_ids"])

    alone = embedded([[made[7]]], is_packed=False)[0]
    others = [made[n] for n in (1, 2)[:before]]
    row = [*others, made[7], *[made[3]][:behind]]
    start = sum(len(each.input_ids) for each in others)
    assert torch.equal(embedded([row, [made[4]]], is_packed=True)[0, start : start + 6], alone)


@pytest.mark.parametrize("shares_module", [False, True])
def test_t5_noises_the_encoder_only(t5: nn.Module, keys_of: KeysOf, shares_module: bool) -> None:
    if shares_module:  # one embedding module serves both stacks
        t5.encoder.embed_tokens = t5.decoder.embed_tokens = t5.shared
    seen: dict[str, list[Tensor]] = {"encoder": [], "decoder": []}
    context = attach(t5, {"encoder": keys_of([5, 3], 5), "decoder": keys_of([5, 5], 5)}, "encoder")
    for stack, calls in ((t5.encoder, seen["encoder"]), (t5.decoder, seen["decoder"])):
        stack.block[0].register_forward_pre_hook(
            lambda module, args, calls=calls: calls.append(args[0].detach())
        )

    def forward() -> None:
        t5(input_ids=IDS, attention_mask=MASK, decoder_input_ids=IDS)

    forward()
    add_noise(context, 0.5)
    t5.train()
    forward()
    t5.eval()
    forward()
    (clean, noisy, again), decoder = seen["encoder"], seen["decoder"]
    expected = 0.5 * uniform(context.batch.token_keys["encoder"], salt_of(9, "embedding_noise"), 32)
    torch.testing.assert_close(noisy - clean, expected * MASK[..., None])
    assert torch.equal(again, clean)
    assert torch.equal(decoder[0], decoder[1])


def test_noise_without_keys_or_mask_is_refused(llama: nn.Module, keys_of: KeysOf) -> None:
    context = attach(llama, {"decoder": keys_of([5, 3], 5)})
    add_noise(context, 0.5)
    context.begin_batch(BatchDescription(context.batch.token_keys))
    with pytest.raises(LopeError, match=r"token_keys.*noise_mask.*\(2, 5\)"):
        llama.train()(IDS)
    context.begin_batch(BatchDescription({}, MASK))
    with pytest.raises(LopeError, match=r"token_keys.*noise_mask.*\(2, 5\)"):
        llama(IDS)
    context.begin_batch(BatchDescription({"decoder": keys_of([5, 3], 5)}, MASK))
    llama(IDS)
    context.begin_stage(StageDescription(embedding_noise=NEFTUNE))
    with pytest.raises(LopeError, match=r"neftune.*example_lengths.*\(2, 5\)"):
        llama(IDS)
