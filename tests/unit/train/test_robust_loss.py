"""Losses for noisy targets: each equals its formula on full logits, whatever the batch's split."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lope_dist.config.loss import (
    CrossEntropyConfig,
    GeneralizedConfig,
    LabelSmoothingConfig,
    MixtureConfig,
    TruncatedConfig,
)
from lope_dist.corpus.feed.batches import build_batch
from lope_dist.corpus.tokens.encode import IGNORED, Tokenized
from lope_dist.model import loss_head as head_module
from lope_dist.model.loss_head import LossHead
from lope_dist.train.objective import summed_loss, targets_of
from lope_dist.train.stage.robust_loss import StageLoss, hardest

VOCABULARY, HIDDEN = 50, 12
CPU = torch.device("cpu")


class _Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


Weights = tuple[float, float, float, float]
ALIKE = (1.0, 1.0, 1.0, 1.0)


def examples(weights: Weights = ALIKE, seed: int = 0) -> list[Tokenized]:
    """Return four examples; the last one has no target, the first ones have 2, 7 and 11."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number, (prompt, answer) in enumerate([(4, 2), (3, 7), (5, 11), (6, 0)]):
        ids = torch.randint(0, VOCABULARY, (prompt + answer,), generator=generator).tolist()
        labels = [IGNORED] * prompt + ids[prompt:]
        made.append(Tokenized(number, ids, labels, was_cut=False, weight=weights[number]))
    return made


def batches(split: list[list[list[int]]], is_packed: bool, weights: Weights = ALIKE) -> list:
    """Return micro-batches of rows of the numbers of examples."""
    own = examples(weights)
    return [
        build_batch(
            [[own[i] for i in row] for row in rows], is_packed=is_packed, pad_id=0, seed=0, epoch=0
        )
        for rows in split
    ]


def hidden_of(example: int, place: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * example + place)
    return torch.randn(HIDDEN, generator=generator)


def build_head() -> LossHead:
    torch.manual_seed(1)
    head = LossHead(HIDDEN, VOCABULARY, False, torch.float32)
    head.weight = nn.Parameter(torch.randn(VOCABULARY, HIDDEN), requires_grad=False)
    return head


def by_hand(config, weights: Weights) -> tuple[float, float, dict[tuple[int, int], Tensor]]:
    """Return the loss's sum and divisor and the gradient of each hidden state: from full logits."""
    head, total, divisor, hidden = build_head(), torch.zeros(()), 0, {}
    for number, example in enumerate(examples()):
        at = [t for t in range(len(example.labels) - 1) if example.labels[t + 1] != IGNORED]
        own = {t: hidden_of(number, t).requires_grad_() for t in at}
        hidden |= {(number, t): x for t, x in own.items()}
        logs = {t: (head.weight @ x).log_softmax(-1) for t, x in own.items()}
        losses = {t: -logs[t][example.labels[t + 1]] for t in at}
        kept = at
        if config.kind == "truncated":
            ordered = sorted(at, key=lambda t: -losses[t].item())
            kept = ordered[math.floor(config.share * len(at)) :]
        divisor += len(kept)
        for t in kept:
            term = losses[t]
            if config.kind == "generalized":
                term = (1 - torch.exp(logs[t][example.labels[t + 1]]) ** config.q) / config.q
            if config.kind == "mixture":
                p = torch.exp(logs[t][example.labels[t + 1]])
                noise = config.prior * math.exp(-config.noise_loss)
                term = -torch.log((1 - config.prior) * p + noise)
            if config.kind == "label_smoothing":
                s = config.smoothing
                term = (1 - s) * losses[t] - s * logs[t].mean()
            total = total + weights[number] * term
    total.backward()
    return total.item(), divisor, {k: x.grad for k, x in hidden.items() if x.grad is not None}


KINDS = [
    CrossEntropyConfig(),
    TruncatedConfig(share=0.3),
    GeneralizedConfig(q=0.4),
    GeneralizedConfig(q=1.0),
    MixtureConfig(prior=0.3, noise_loss=3.0),
    LabelSmoothingConfig(smoothing=0.2),
]
SPLITS = {
    "one batch": ([[[0], [1], [2], [3]]], False),
    "two batches": ([[[3], [2]], [[0], [1]]], False),
    "packed": ([[[2, 0, 1, 3]]], True),
    "packed, two rows and a filled one": ([[[3, 1], [2, 0]]], True),
}


@pytest.mark.parametrize("weights", [ALIKE, (0.5, 3.0, 1.0, 2.0)], ids=["alike", "weighted"])
@pytest.mark.parametrize("with_head", [True, False])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("config", KINDS, ids=lambda c: c.kind)
def test_a_loss_is_its_formula_on_full_logits(
    config, split, with_head, weights, monkeypatch
) -> None:
    """Value, divisor and gradient; the head goes through two tokens at a time.

    Weights of rows are factors: neither the choice of tokens nor the divisor depends on them.
    """
    monkeypatch.setattr(head_module, "chunk_rows", lambda vocabulary: 2)
    head, loss_of = build_head(), StageLoss(config, shift=True)
    expected, divisor, expected_grads = by_hand(config, weights)
    made = batches(*SPLITS[split], weights)
    total, found = 0.0, {}
    for batch, rows in zip(made, SPLITS[split][0], strict=True):
        shape = batch.labels.shape
        where = {}
        for n, row in enumerate(rows):
            places = [(i, t) for i in row for t in range(len(examples()[i].labels))]
            where |= {(n, column): key for column, key in enumerate(places)}
        x = torch.zeros(*shape, HIDDEN)
        for at, key in where.items():
            x[at] = hidden_of(*key)
        x.requires_grad_()
        targets = targets_of(batch.labels, shift=True)
        loss = summed_loss(
            lambda x=x: _Output(head(x)),
            head if with_head else None,
            targets,
            CPU,
            loss_of.terms(batch, targets, None),
        )
        loss.backward()
        total += loss.item()
        found |= {key: x.grad[at] for at, key in where.items() if x.grad[at].any()}
    assert total == pytest.approx(expected, rel=1e-5)
    assert loss_of.weight(made) == divisor
    assert found.keys() == expected_grads.keys()
    for key, grad in expected_grads.items():
        torch.testing.assert_close(found[key], grad, rtol=1e-4, atol=1e-6)


def test_the_base_models_losses_decide_where_they_are_asked_for() -> None:
    config = TruncatedConfig(share=0.5, by="base")
    (batch,) = batches([[[0], [1]]], False)
    targets = targets_of(batch.labels, shift=True)
    base = torch.arange(9.0)  # two targets, then seven
    terms = StageLoss(config, shift=True).terms(batch, targets, base)
    losses = torch.tensor([1.0, 2, 4, 8, 16, 32, 64, 128, 256])
    assert terms.sum(losses).item() == 1 + (4 + 8 + 16 + 32)


def test_equal_losses_still_leave_out_as_many() -> None:
    examples_P = torch.tensor([1, 0, 1, 1, 0, 1, 1])
    is_hard = hardest(torch.ones(7), examples_P, 0.5)
    assert [int(is_hard[examples_P == n].sum()) for n in (0, 1)] == [1, 2]
