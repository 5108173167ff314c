"""Kernels that one adapted layer launches on a GPU, ours and peft's LoRA of the same total rank.

Counted on a CPU, no GPU needed: operators that launch are counted one each, views and
allocations none, and what the project starts through `kernels.launching` one each. The layer
takes the path that it takes on a GPU. Its Triton kernels are counted and not run, so the numbers in
the tensors mean nothing here; `tests/unit/adapters/kernels` computes with them.

Both sides have the same frozen bfloat16 `nn.Linear`, whose launches count (NF4 would add the same
to both), and float32 adapters; the input needs a gradient, as that of every layer but the
first. peft's dropout is counted as on a GPU, one kernel and its mask, not the CPU's three. Ours
also adds up the router's usage, as every training run does; `without_usage` has that left out. An
operator may be more than one kernel on a card (a product split over its inner dimension), on
both sides alike.

    forward_over_lora           training, dropout and routing       target <= 1.6
    backward_over_lora          the same                            target <= 1.6
    masked_forward_over_lora    masked and compensated answers      target <= 1.3
    *_float32                   the same with a float32 base

Run: python bench/launches.py [--operators]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from adapter import build_lope, build_lora
from common import command, finish
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lope_dist.adapters.context import StageDescription
from lope_dist.adapters.kernels import launching
from lope_dist.adapters.purify import purify

TARGETS = {
    "forward_over_lora": "<= 1.6",
    "backward_over_lora": "<= 1.6",
    "masked_forward_over_lora": "<= 1.3",
}
TOKENS, WIDTH, DROPOUT = 24, 64, 0.05
_ALLOCATES = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
_FREE = (*_ALLOCATES, "_unsafe_view", "lift_fresh", "detach")


class Launches(TorchDispatchMode):
    """Counts, by name, the operators that launch a kernel on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if not func.is_view and name not in _FREE:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


class OneKernelDropout(nn.Dropout):
    """Dropout by the operator that a GPU takes."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the input, dropped out while training."""
        return torch.native_dropout(input, self.p, self.training)[0] if self.training else input


@contextmanager
def as_on_a_gpu(launches: Launches) -> Iterator[None]:
    """Let the adapter take its path of a GPU; its kernels are counted in the place of run."""

    def launch(kernel: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
        launches.counts[f"triton {kernel.__name__}"] += 1

    saved = launching.run_on, launching.launch
    launching.run_on, launching.launch = lambda x, rank: rank <= launching.MAX_RANK, launch
    try:
        yield
    finally:
        launching.run_on, launching.launch = saved


def training(layer: nn.Module, dtype: torch.dtype) -> tuple[Counter[str], Counter[str]]:
    """Return what a forward and a backward pass launch, gradients not there before."""
    x = torch.randn(1, TOKENS, WIDTH, dtype=dtype).requires_grad_()
    grad, forward, backward = torch.randn_like(x), Launches(), Launches()
    layer.train()
    with as_on_a_gpu(forward), forward:
        y = layer(x)
    with as_on_a_gpu(backward), backward:
        y.backward(grad)
    return forward.counts, backward.counts


def answering(layer: nn.Module, dtype: torch.dtype) -> Counter[str]:
    """Return what a forward pass without gradients launches."""
    x, launches = torch.randn(1, TOKENS, WIDTH, dtype=dtype), Launches()
    with torch.no_grad(), as_on_a_gpu(launches), launches:
        layer.eval()(x)
    return launches.counts


def ours(dtype: torch.dtype, collects: bool = False) -> Any:
    """Return our layer, its base of this type."""
    layer = build_lope(WIDTH, DROPOUT, TOKENS)
    layer.base.to(dtype)
    context = layer.lope.context
    context.begin_stage(StageDescription(collects_usage=collects))
    context.begin_batch(replace(context.batch, noise_mask=torch.ones(1, TOKENS)))
    return layer


def peers(dtype: torch.dtype) -> nn.Module:
    """Return peft's layer, its base of this type."""
    layer: Any = build_lora(WIDTH, DROPOUT)
    layer.base_layer.to(dtype)
    layer.lora_dropout["default"] = OneKernelDropout(DROPOUT)
    return layer


def compare(dtype: torch.dtype) -> dict[str, Counter[str]]:
    """Return the launches of each case by operator."""
    found = {}
    for name, layer in (
        ("ours", ours(dtype, collects=True)),
        ("without_usage", ours(dtype)),
        ("lora", peers(dtype)),
    ):
        training(layer, dtype)  # the first backward pass is as every first of a step
        layer.zero_grad(set_to_none=True)
        found[f"{name}_forward"], found[f"{name}_backward"] = training(layer, dtype)
    masked = ours(dtype)
    masked.lope.context.answer_as("masked")
    found["ours_masked"] = answering(masked, dtype)
    purify(masked, masked.lope.context)
    found["ours_purified"] = answering(masked, dtype)
    found["lora_answering"] = answering(peers(dtype), dtype)
    return found


def table(base: str, counts: dict[str, int]) -> list[dict[str, Any]]:
    """Return the rows of the page, by the type of the frozen layer."""
    passes = {
        "training, forward": ("ours_forward", "without_usage_forward", "lora_forward"),
        "training, backward": ("ours_backward", "without_usage_backward", "lora_backward"),
        "answering, masked": ("ours_masked", None, "lora_answering"),
        "answering, purified": ("ours_purified", None, "lora_answering"),
    }
    columns = ("ours", "ours without usage", "LoRA")
    return [
        {"base": base, "pass": name}
        | {column: key and counts[key] for column, key in zip(columns, keys, strict=True)}
        for name, keys in passes.items()
    ]


def main() -> None:
    """Print the figures."""
    parser = command(__doc__)
    parser.add_argument("--operators", action="store_true", help="print each operator's count")
    args = parser.parse_args()
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {"launches": {"rows": []}}
    for suffix, dtype in (("", torch.bfloat16), ("_float32", torch.float32)):
        found = compare(dtype)
        counts = {name: counter.total() for name, counter in found.items()}
        base = str(dtype).removeprefix("torch.")
        figures[base] = counts
        figures["launches"]["rows"] += table(base, counts)
        for way in ("forward", "backward"):
            ratios[f"{way}_over_lora{suffix}"] = counts[f"ours_{way}"] / counts[f"lora_{way}"]
        ratios[f"masked_forward_over_lora{suffix}"] = (
            counts["ours_masked"] / counts["lora_answering"]
        )
        if args.operators:
            for name, counter in found.items():
                print(f"{dtype} {name}: {counter.total()} {dict(counter)}")
    finish("launches", ratios, TARGETS, figures, vars(args))


if __name__ == "__main__":
    main()
