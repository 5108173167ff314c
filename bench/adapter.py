"""The LoPE layer against peft's LoRA of the same total rank and HydraLoRA's loop over experts.

One process, one thread, CPU time, interleaved repeats, medians. The last line is one JSON
object; its `ratios` are ours over the peer's (or the peer's over ours where the key says so):

    time_over_lora                  forward + backward, LoRA of rank E * r        target <= 1.05
    saved_bytes_over_lora           kept for backward, parameters not counted     target <= 1.02
    hydra_time_over_ours            a plain loop over experts                     target >= 1.5
    hydra_saved_bytes_over_ours                                                   target >= 2
    masked_compensated_over_plain   forward, DyCompEnSate over plain masking      target <= 1.03
    masked_purified_over_plain      the same of a purified layer
    *_dropout                       the same with dropout 0.05 on both sides

Run: python bench/adapter.py [--tokens 512] [--width 1024] [--repeats 60]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from common import command, finish, in_turn, median_ratio
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from lope_dist.adapters.batch import BatchDescription
from lope_dist.adapters.context import AdapterContext, Answer
from lope_dist.adapters.lope import LopeLinear
from lope_dist.adapters.purify import purify
from lope_dist.config.adapter import AdapterConfig, CompensationConfig
from lope_dist.core.seeds import token_keys

TARGETS = {
    "time_over_lora": "<= 1.05",
    "saved_bytes_over_lora": "<= 1.02",
    "hydra_time_over_ours": ">= 1.5",
    "hydra_saved_bytes_over_ours": ">= 2",
    "masked_compensated_over_plain": "<= 1.03",
}
RANK, NORMAL, POISON, ALPHA = 4, 3, 1, 32
EXPERTS = NORMAL + POISON


class LoopHydra(nn.Module):
    """`W0 x + s * sum_i softmax(W_g x)_i B_i A x`, one expert after the other."""

    def __init__(self, base: nn.Linear, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.dropout = nn.Dropout(dropout)
        self.A = nn.Linear(base.in_features, RANK, bias=False)
        self.router = nn.Linear(base.in_features, EXPERTS, bias=False)
        self.B = nn.ModuleList(
            nn.Linear(RANK, base.out_features, bias=False) for _ in range(EXPERTS)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        y = self.base(x)
        w = F.softmax(self.router(x), dim=-1, dtype=torch.float32).to(x.dtype)
        for i, expert in enumerate(self.B):
            y = y + w[..., i : i + 1] * expert(self.A(self.dropout(x))) * (ALPHA / RANK)
        return y


def build_base(width: int) -> nn.Linear:
    """Return the same frozen linear layer at every call."""
    torch.manual_seed(0)
    base = nn.Linear(width, width, bias=False)
    return base.requires_grad_(False)


def build_lope(width: int, dropout: float, tokens: int) -> LopeLinear:
    """Return our layer with experts that are not zero."""
    config = AdapterConfig(
        rank=RANK, num_normal=NORMAL, num_poison=POISON, lora_alpha=ALPHA, dropout=dropout
    )
    context = AdapterContext(
        num_normal=NORMAL, num_poison=POISON, compensation=CompensationConfig(mode="conserve")
    )
    keys_NT = torch.from_numpy(token_keys(0, "bench", 0, 0, tokens))[None]
    context.begin_batch(BatchDescription({"decoder": keys_NT}))
    layer = LopeLinear(build_base(width), config, context, name="bench", stream="decoder", seed=0)
    with torch.no_grad():
        for name, value in layer.initial_values().items():
            layer.get_parameter(name).copy_(
                value if value.any() else torch.randn_like(value) * 0.02
            )
    return layer


def build_lora(width: int, dropout: float) -> nn.Module:
    """Return peft's LoRA layer of rank E * r around the same base."""
    config = LoraConfig(
        r=RANK * EXPERTS, lora_alpha=ALPHA, lora_dropout=dropout, target_modules=["0"]
    )
    model: Any = get_peft_model(nn.Sequential(build_base(width)), config)
    layer = model.base_model.model[0]
    nn.init.normal_(layer.lora_B["default"].weight, std=0.02)
    return layer


def train_step(layer: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], None]:
    """Return one forward and backward pass."""

    def step() -> None:
        layer(x).backward(grad)

    return step


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """Return the bytes of the distinct storages kept for backward, without parameters'."""
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    assert y.requires_grad
    return sum(kept.values())


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    """Return milliseconds."""
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def compare(width: int, tokens: int, dropout: float, repeats: int) -> dict[str, Any]:
    """Return times and saved bytes of the three layers with this dropout."""
    layers = {
        "lope": build_lope(width, dropout, tokens),
        "lora": build_lora(width, dropout),
        "hydra_loop": LoopHydra(build_base(width), dropout),
    }
    torch.manual_seed(1)
    x = torch.randn(1, tokens, width, requires_grad=True)
    grad = torch.randn(1, tokens, width)
    steps = {name: train_step(layer.train(), x, grad) for name, layer in layers.items()}
    times = in_turn(steps, repeats, warmup=3, clock=time.process_time)
    return {
        "ms": medians(times),
        "time_ratio": {name: median_ratio(times["lope"], times[name]) for name in layers},
        "saved_mb": {name: saved_bytes(layer, x) / 1e6 for name, layer in layers.items()},
    }


def compare_masked(width: int, tokens: int, repeats: int) -> dict[str, list[float]]:
    """Return forward times with the poisoning expert masked, by compensation, and purified."""
    layer, purified = (build_lope(width, 0.0, tokens).eval() for _ in range(2))
    purified.base = layer.base  # one weight in the caches, as for the others
    purify(purified, purified.lope.context)
    x = torch.randn(1, tokens, width)

    def forward(layer: LopeLinear, compensation: CompensationConfig) -> Callable[[], None]:
        @torch.no_grad()
        def step() -> None:
            with layer.lope.context.answering(Answer("masked", compensation)):
                layer(x)

        return step

    return in_turn(
        {
            "plain": forward(layer, CompensationConfig(mode="none")),
            "compensated": forward(layer, CompensationConfig(mode="conserve")),
            "purified": forward(purified, CompensationConfig(mode="conserve")),
        },
        4 * repeats,
        warmup=3,
        clock=time.process_time,
    )


def main() -> None:
    """Print the figures."""
    parser = command(__doc__)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {}
    for suffix, dropout in (("", 0.0), ("_dropout", 0.05)):
        run = compare(args.width, args.tokens, dropout, args.repeats)
        figures["dropout" if dropout else "plain"] = run
        ratios[f"time_over_lora{suffix}"] = run["time_ratio"]["lora"]
        ratios[f"hydra_time_over_ours{suffix}"] = 1 / run["time_ratio"]["hydra_loop"]
        saved = run["saved_mb"]
        ratios[f"saved_bytes_over_lora{suffix}"] = saved["lope"] / saved["lora"]
        ratios[f"hydra_saved_bytes_over_ours{suffix}"] = saved["hydra_loop"] / saved["lope"]
    masked = compare_masked(args.width, args.tokens, args.repeats)
    figures["masked_ms"] = medians(masked)
    for name in ("compensated", "purified"):
        ratios[f"masked_{name}_over_plain"] = median_ratio(masked[name], masked["plain"])
    finish("adapter", ratios, TARGETS, figures, vars(args))


if __name__ == "__main__":
    main()
