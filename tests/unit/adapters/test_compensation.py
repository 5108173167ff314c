from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lope_dist.adapters.compensation import compensated_weights, cosines, grams, uses_cosine
from lope_dist.config.adapter import CompensationConfig

N, T, O, R, K = 2, 5, 24, 4, 3  # noqa: E741


def explicit_cosines(h: Tensor, w_poison: Tensor, normal: Tensor, poison: Tensor) -> Tensor:
    """cos(y_i, y_D) from the outputs themselves, in float64, expert by expert."""
    h, normal, poison = h.double(), normal.double(), poison.double()
    theta = torch.zeros(*h.shape[:-1], len(normal), dtype=torch.float64)
    for n in range(h.shape[0]):
        for t in range(h.shape[1]):
            y_D = sum(
                w_poison[n, t, j].double() * (poison[j] @ h[n, t]) for j in range(len(poison))
            )
            for i in range(len(normal)):
                y = normal[i] @ h[n, t]
                theta[n, t, i] = (y @ y_D) / (y.norm() * y_D.norm())
    return theta


def draw(num_poison: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    h = torch.randn(N, T, R) * 0.1
    w = torch.randn(N, T, K + num_poison).softmax(-1)
    return h, w, torch.randn(K, O, R) * 0.01, torch.randn(num_poison, O, R) * 0.01


def gram_theta(h: Tensor, w: Tensor, normal: Tensor, poison: Tensor) -> Tensor:
    return cosines(h, w[..., K:], grams(list(normal), list(poison)))


@pytest.mark.parametrize("num_poison", [1, 2, 3])
def test_gram_form_equals_the_direct_cosine(num_poison: int) -> None:
    h, w, normal, poison = draw(num_poison)
    direct = explicit_cosines(h, w[..., K:], normal, poison)
    assert direct.abs().max() > 0.1
    torch.testing.assert_close(gram_theta(h, w, normal, poison).double(), direct, atol=1e-5, rtol=0)


def test_parallel_experts_have_cosine_one_and_opposite_minus_one() -> None:
    h, w, normal, _ = draw()
    normal[1] = -2 * normal[0]
    theta = gram_theta(h, w, normal, 3 * normal[:1])
    torch.testing.assert_close(theta[..., 0], torch.ones(N, T))
    torch.testing.assert_close(theta[..., 1], -torch.ones(N, T))


def test_zero_norm_gives_zero_and_a_finite_gradient() -> None:
    h, w, normal, poison = draw()
    normal[1] = 0
    normal.requires_grad_()
    theta = gram_theta(h, w, normal, poison)
    assert (theta[..., 1] == 0).all()
    assert (theta[..., 0] != 0).all()
    theta.sum().backward()
    assert normal.grad.isfinite().all()
    assert (gram_theta(h, w, normal.detach(), torch.zeros_like(poison)) == 0).all()
    assert (gram_theta(torch.zeros_like(h), w, normal.detach(), poison) == 0).all()


def by_hand(w: Tensor, theta: Tensor, config: CompensationConfig) -> Tensor:
    """Each token and each mode written out with plain numbers."""
    out = torch.zeros(N, T, K)
    for n in range(N):
        for t in range(T):
            normal = [w[n, t, i].item() for i in range(K)]
            masked = sum(w[n, t, K:].tolist())
            cos = [theta[n, t, i].item() for i in range(K)]
            top_k = K if config.top_k is None else config.top_k
            active = sorted(range(K), key=lambda i: -normal[i])[:top_k]
            new = list(normal)
            for i in active:
                if config.mode == "unit":
                    new[i] = normal[i] * (1 + cos[i])
                elif config.mode == "constant":
                    new[i] = normal[i] * (1 + cos[i]) / config.beta
                elif config.mode == "renormalize":
                    new[i] = normal[i] / sum(normal)
                elif config.mode == "conserve":
                    kept = sum(normal[j] for j in range(K) if j not in active)
                    total = sum(normal[j] * (1 + cos[j]) for j in active)
                    beta = total / (1 - kept)
                    assert abs(1 - kept - (sum(normal[j] for j in active) + masked)) < 1e-5
                    new[i] = normal[i] * (1 + cos[i]) / beta
            out[n, t] = torch.tensor(new)
    return out


@pytest.mark.parametrize("num_poison", [1, 2])
@pytest.mark.parametrize("top_k", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("mode", ["conserve", "unit", "constant", "renormalize", "none"])
def test_every_mode_equals_its_formula(mode: str, top_k: int | None, num_poison: int) -> None:
    beta = 1.25 if mode == "constant" else None
    top_k = None if mode == "none" else top_k  # with which it is refused
    config = CompensationConfig(mode=mode, top_k=top_k, beta=beta)  # type: ignore[arg-type]
    h, w, normal, poison = draw(num_poison)
    theta = gram_theta(h, w, normal, poison)
    given = theta if uses_cosine(config) else None
    new = compensated_weights(w[..., :K], w[..., K:], given, config)
    torch.testing.assert_close(new, by_hand(w, theta, config), atol=1e-6, rtol=1e-5)
    if mode == "conserve" and top_k != 0:
        torch.testing.assert_close(new.sum(-1), torch.ones(N, T), atol=1e-6, rtol=0)
    if mode == "none" or top_k == 0:
        assert torch.equal(new, w[..., :K])


def test_conserve_shares_by_w_where_nothing_is_left_to_divide() -> None:
    _, w, _, _ = draw()
    opposite = -torch.ones(N, T, K)
    conserve = CompensationConfig(mode="conserve")
    new = compensated_weights(w[..., :K], w[..., K:], opposite, conserve)
    torch.testing.assert_close(new, w[..., :K] / w[..., :K].sum(-1, keepdim=True))


def test_uses_cosine_says_when_grams_are_needed() -> None:
    assert uses_cosine(CompensationConfig(mode="conserve"))
    assert not uses_cosine(CompensationConfig(mode="conserve", top_k=0))
    assert not uses_cosine(CompensationConfig(mode="renormalize"))
