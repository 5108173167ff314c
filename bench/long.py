"""What a long sequence needs besides the layers: the loss and the embedding noise.

The loss of LLaMA2-7B's output projection and Stage I's noise on 32,768 tokens, bfloat16, beside
their plain formulas on an eighth of them (whole logits in float32; the noise drawn at once). The
last line is one JSON object; its `ratios` are peaks of memory over the bytes of the hidden states
that go in, forward and backward:

    loss_over_hidden, noise_over_hidden               ours             target <= 4
    plain_loss_over_hidden, plain_noise_over_hidden   plain formulas

Run: python bench/long.py [--tokens 32768]
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import command, finish
from process_memory import Peak, now
from torch import Tensor, nn
from torch.nn import functional as F

from lope_dist.adapters.counter_noise import uniform
from lope_dist.adapters.embedding_noise import noisy_embeddings
from lope_dist.config.noise import EmbeddingNoiseConfig
from lope_dist.core.seeds import token_keys
from lope_dist.model.loss_head import LossHead, Targets
from lope_dist.train.objective import summed_cross_entropy

HIDDEN, VOCABULARY, PART = 4096, 32000, 8
BF16 = 2  # bytes


def main() -> None:
    """Print the figures."""
    parser = command(__doc__)
    parser.add_argument("--tokens", type=int, default=32768)
    arguments = parser.parse_args()
    tokens, part = arguments.tokens, arguments.tokens // PART
    head = LossHead(HIDDEN, VOCABULARY, bias=False, dtype=torch.bfloat16)
    head.to_empty(device="cpu")
    nn.init.normal_(head.weight, std=0.02)
    keys_NT = torch.from_numpy(token_keys(0, "bench", 0, 0, tokens)).unsqueeze(0)

    def loss(x: Tensor) -> Tensor:
        with head.answering(_targets(x)):
            return head(x)

    def plain_loss(x: Tensor) -> Tensor:
        return summed_cross_entropy(F.linear(x, head.weight), _targets(x))

    def noise(x: Tensor) -> Tensor:
        keys = keys_NT[:, : x.shape[1]]
        ones = torch.ones_like(keys)
        return noisy_embeddings(x, keys, ones, EmbeddingNoiseConfig(), 1)

    def plain_noise(x: Tensor) -> Tensor:
        return x + 0.05 * uniform(keys_NT[:, : x.shape[1]], 1, HIDDEN).to(x.dtype)

    works = {
        "loss": (loss, tokens),
        "noise": (noise, tokens),
        "plain_loss": (plain_loss, part),
        "plain_noise": (plain_noise, part),
    }
    peaks = {name: _peak_over_hidden(work, count) for name, (work, count) in works.items()}
    finish(
        "long",
        {f"{name}_over_hidden": value for name, value in peaks.items()},
        {"loss_over_hidden": "<= 4", "noise_over_hidden": "<= 4"},
        {
            "hidden_mib": tokens * HIDDEN * BF16 / (1 << 20),
            "whole_logits_mib": tokens * VOCABULARY * 4 / (1 << 20),
        },
        vars(arguments),
    )


def _targets(x: Tensor) -> Targets:
    places = torch.arange(x.shape[1])
    return Targets(places, places % VOCABULARY)


def _peak_over_hidden(work: Callable[[Tensor], Tensor], tokens: int) -> float:
    """Return the peak of anonymous memory in forward and backward over the input's bytes."""
    x = torch.randn(1, tokens, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
    with Peak(now()) as peak:
        work(x).sum(dtype=torch.float32).backward()
    return peak.anon / (x.numel() * BF16)


if __name__ == "__main__":
    main()
