"""The loss from whole logits and chunk by chunk: the same number, the same gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, T5Config

from lope_dist.config.model import ModelConfig
from lope_dist.corpus.tokens.encode import IGNORED
from lope_dist.model import loss_head as module
from lope_dist.model.build import build_meta_model
from lope_dist.model.loss_head import LossHead, loss_head
from lope_dist.train.objective import summed_cross_entropy, summed_loss, targets_of

CPU = torch.device("cpu")


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 9, 11, generator=generator)
    labels = torch.randint(0, 11, (4, 9), generator=generator)
    labels[0, :5] = labels[2, 3:] = IGNORED
    return logits, labels


def whole_loss(logits: torch.Tensor, labels: torch.Tensor, shift: bool) -> torch.Tensor:
    return summed_cross_entropy(logits, targets_of(labels, shift))


def test_without_shift_it_is_the_mean_times_the_targets(batch) -> None:
    logits, labels = batch
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten()) * (labels != IGNORED).sum()
    torch.testing.assert_close(whole_loss(logits, labels, shift=False), expected)


def test_with_shift_a_position_predicts_the_next_label(batch) -> None:
    logits, labels = batch
    expected = sum(
        -logits[n, t].log_softmax(-1)[labels[n, t + 1]]
        for n in range(4)
        for t in range(8)
        if labels[n, t + 1] != IGNORED
    )
    torch.testing.assert_close(whole_loss(logits, labels, shift=True), expected)


@pytest.mark.parametrize("shift", [True, False])
def test_ignored_positions_get_no_gradient(batch, shift: bool) -> None:
    logits, labels = batch
    logits.requires_grad_()
    whole_loss(logits, labels, shift).backward()
    has_gradient = logits.grad.abs().sum(-1) > 0
    expected = labels != IGNORED
    if shift:
        expected = torch.cat([expected[:, 1:], torch.zeros(4, 1, dtype=torch.bool)], 1)
    assert torch.equal(has_gradient, expected)


@pytest.mark.parametrize("shift", [True, False])
def test_a_split_batch_sums_to_the_whole(batch, shift: bool) -> None:
    logits, labels = batch
    whole = whole_loss(logits, labels, shift)
    parts = [whole_loss(logits[rows], labels[rows], shift) for rows in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(sum(parts), whole)


def test_sums_are_float32_for_low_precision_logits(batch) -> None:
    logits, labels = batch
    low = logits.bfloat16()
    loss = whole_loss(low, labels, shift=True)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, whole_loss(low.float(), labels, shift=True))


def test_a_batch_without_targets_is_zero_where_half_precision_would_overflow() -> None:
    logits = torch.full((2, 64, 100), -20.0, dtype=torch.float16, requires_grad=True)
    loss = whole_loss(logits, torch.full((2, 64), IGNORED), shift=True)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


# The head's own loss


def build_head(hidden: int, vocabulary: int, bias: bool, dtype=torch.float32) -> LossHead:
    torch.manual_seed(1)
    head = LossHead(hidden, vocabulary, bias, dtype)
    for name, parameter in list(head.named_parameters()):
        value = torch.randn(parameter.shape).mul_(0.1).to(dtype)
        setattr(head, name, nn.Parameter(value, requires_grad=False))
    return head


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shift", [True, False])
def test_chunks_equal_the_whole_with_its_gradient(rows, bias, shift, monkeypatch) -> None:
    monkeypatch.setattr(module, "chunk_rows", lambda vocabulary: rows)
    head = build_head(12, 50, bias)
    x = torch.randn(3, 10, 12)
    labels = torch.randint(0, 50, (3, 10))
    labels[0, :6] = labels[2, 4:7] = IGNORED
    targets = targets_of(labels, shift)
    plain, chunked = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = summed_cross_entropy(head(plain), targets)
    with head.answering(targets):
        found = head(chunked)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    (expected * 0.37).backward()
    (found * 0.37).backward()
    torch.testing.assert_close(chunked.grad, plain.grad, rtol=1e-5, atol=1e-7)


def test_without_targets_the_head_gives_a_zero_with_zero_gradients() -> None:
    head = build_head(12, 50, bias=False)
    x = torch.randn(1, 4, 12, requires_grad=True)
    with head.answering(targets_of(torch.full((1, 4), IGNORED), shift=True)):
        loss = head(x)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_huge_scores_do_not_overflow() -> None:
    head = build_head(4, 8, bias=False)
    x = torch.full((1, 2, 4), 1e4)
    targets = targets_of(torch.tensor([[1, 2]]), shift=False)
    with head.answering(targets):
        found = head(x)
    torch.testing.assert_close(found, summed_cross_entropy(head(x), targets))


def test_in_bfloat16_loss_and_gradient_are_the_whole_ones_to_its_rounding() -> None:
    head = build_head(64, 300, bias=False, dtype=torch.bfloat16)
    x = torch.randn(2, 40, 64).bfloat16()
    targets = targets_of(torch.randint(0, 300, (2, 40)), shift=True)
    plain, chunked = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = summed_cross_entropy(head(plain), targets)
    with head.answering(targets):
        found = head(chunked)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    expected.backward()
    found.backward()
    torch.testing.assert_close(chunked.grad, plain.grad, rtol=2e-2, atol=1e-3)


def peak_bytes(step) -> int:
    """Return the most memory that a step holds at once above its start, by torch's allocator."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    # A raw event carries the change of one allocation or release.
    held = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def test_full_logits_never_exist(monkeypatch) -> None:
    vocabulary, hidden, tokens, rows = 5000, 16, 512, 32
    monkeypatch.setattr(module, "chunk_rows", lambda vocabulary: rows)
    head = build_head(hidden, vocabulary, bias=False)
    x = torch.randn(1, tokens, hidden, requires_grad=True)
    targets = targets_of(torch.randint(0, vocabulary, (1, tokens)), shift=True)

    def chunked() -> None:
        with head.answering(targets):
            head(x).backward()

    whole = 4 * tokens * vocabulary
    assert peak_bytes(lambda: summed_cross_entropy(head(x), targets).backward()) > 2 * whole
    assert peak_bytes(chunked) < 3 * 4 * rows * vocabulary + 6 * 4 * tokens * hidden


# Every known family's model returns what its head returns

SMALL = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2}
T5 = {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "llama tied": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "mistral": MistralConfig(**SMALL),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, head_dim=8),
    "t5": T5Config(**T5, decoder_start_token_id=0, tie_word_embeddings=True),
    "t5 gated": T5Config(
        **T5, decoder_start_token_id=0, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_models_logits_are_its_heads_answer(name: str) -> None:
    arch = CONFIGS[name]
    config = ModelConfig(name_or_path="x", dtype="float32", quantization="none")
    model = build_meta_model(config, arch)
    torch.manual_seed(0)
    made: dict[nn.Parameter, nn.Parameter] = {}  # tied ones stay tied
    for part in model.modules():
        for key, old in part.named_parameters(recurse=False):
            made.setdefault(old, nn.Parameter(torch.randn(old.shape) * 0.2, requires_grad=False))
            setattr(part, key, made[old])
    model.eval()
    head = loss_head(model)
    assert head is not None
    ids = torch.arange(1, 25).view(2, 12)
    inputs = {"input_ids": ids} | (
        {"decoder_input_ids": ids + 3} if arch.is_encoder_decoder else {}
    )
    stack = model.get_encoder() if arch.is_encoder_decoder else model
    embeddings = stack.get_input_embeddings()
    losses, grads = [], []
    for own in (None, head):
        kept: list[torch.Tensor] = []

        def keep(_, __, out, kept=kept):
            kept.append(out.requires_grad_())

        handle = embeddings.register_forward_hook(keep)
        loss = summed_loss(
            lambda: model(**inputs, use_cache=False),
            own,
            targets_of(ids, shift=not arch.is_encoder_decoder),
            CPU,
        )
        loss.backward()
        handle.remove()
        losses.append(loss.detach())
        grads.append(kept[0].grad)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-5)


def test_a_quantized_head_or_a_capped_one_gives_whole_logits() -> None:
    """Gemma 2 caps its logits behind the head."""
    from transformers import Gemma2Config

    plain = ModelConfig(name_or_path="x", quantization="none", attention="eager")
    assert loss_head(build_meta_model(plain, Gemma2Config(**SMALL, head_dim=8))) is None
    quantized = ModelConfig(name_or_path="x", skip_modules=())
    assert loss_head(build_meta_model(quantized, LlamaConfig(**SMALL))) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_ligers_loss_on_a_gpu_is_ours() -> None:
    pytest.importorskip("liger_kernel")
    head = build_head(64, 300, bias=False, dtype=torch.bfloat16)
    x = torch.randn(2, 40, 64).bfloat16()
    targets = targets_of(torch.randint(0, 300, (2, 40)), shift=True)
    found = []
    for device in ("cpu", "cuda"):
        head.to(device)
        own = x.to(device, copy=True).requires_grad_()
        loss = summed_loss(lambda own=own: _Output(head(own)), head, targets, torch.device(device))
        loss.backward()
        found.append((loss.detach().cpu(), own.grad.cpu()))
    torch.testing.assert_close(found[1], found[0], rtol=2e-2, atol=2e-3)


class _Output:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits
