import pytest
import torch
from torch.nn import functional as F

from lope_dist.train.objective import IGNORE, summed_cross_entropy


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 9, 11, generator=generator)
    labels = torch.randint(0, 11, (4, 9), generator=generator)
    labels[0, :5] = labels[2, 3:] = IGNORE
    return logits, labels


def test_without_shift_it_is_the_mean_times_the_targets(batch) -> None:
    logits, labels = batch
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten()) * (labels != IGNORE).sum()
    torch.testing.assert_close(summed_cross_entropy(logits, labels, shift=False), expected)


def test_with_shift_a_position_predicts_the_next_label(batch) -> None:
    logits, labels = batch
    expected = sum(
        -logits[n, t].log_softmax(-1)[labels[n, t + 1]]
        for n in range(4)
        for t in range(8)
        if labels[n, t + 1] != IGNORE
    )
    torch.testing.assert_close(summed_cross_entropy(logits, labels, shift=True), expected)


@pytest.mark.parametrize("shift", [True, False])
def test_ignored_positions_get_no_gradient(batch, shift: bool) -> None:
    logits, labels = batch
    logits.requires_grad_()
    summed_cross_entropy(logits, labels, shift).backward()
    has_gradient = logits.grad.abs().sum(-1) > 0
    expected = labels != IGNORE
    if shift:
        expected = torch.cat([expected[:, 1:], torch.zeros(4, 1, dtype=torch.bool)], 1)
    assert torch.equal(has_gradient, expected)


@pytest.mark.parametrize("shift", [True, False])
def test_a_split_batch_sums_to_the_whole(batch, shift: bool) -> None:
    logits, labels = batch
    whole = summed_cross_entropy(logits, labels, shift)
    parts = [
        summed_cross_entropy(logits[rows], labels[rows], shift)
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_a_batch_without_targets_gives_zero_gradients(batch) -> None:
    logits, labels = batch
    logits.requires_grad_()
    loss = summed_cross_entropy(logits, torch.full_like(labels, IGNORE), shift=True)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_sums_are_float32_for_low_precision_logits(batch) -> None:
    logits, labels = batch
    low = logits.bfloat16()
    loss = summed_cross_entropy(low, labels, shift=True)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, summed_cross_entropy(low.float(), labels, shift=True))


def test_a_batch_without_targets_is_zero_where_half_precision_would_overflow() -> None:
    logits = torch.full((2, 64, 100), -20.0, dtype=torch.float16, requires_grad=True)
    labels = torch.full((2, 64), IGNORE)
    loss = summed_cross_entropy(logits, labels, shift=True)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))
