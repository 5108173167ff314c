"""A static LoRA in the place of the routed experts: `y = W0 x + s * (sum_i w_i B_i) A x`.

The router weighs the experts token by token, so no fixed matrix equals them. Here each
expert gets the mean, over the tokens of a calibration set, of the weight that it has when the
poisoning experts are masked and the others compensated. With a single expert it is exact.

Shapes: D in, O out, R rank, K normal experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lope_dist.adapters.lope import LopeAdapter, LopeLinear, lope_layers
from lope_dist.corpus.feed.batches import MicroBatch
from lope_dist.evaluate.loaded.load import LoadedRun


class LowRank(NamedTuple):
    """One layer's static LoRA: `delta W = scaling * B A`, in float32 on the host."""

    A_RD: Tensor
    B_OR: Tensor
    scaling: float


def exported_answer(run: LoadedRun) -> AbstractContextManager[None]:
    """Context in which the experts that an export stands for answer: masked as in training."""
    return run.context.answering("masked" if run.config.adapter.num_poison else "all")


def static_lora(run: LoadedRun, batches: Sequence[MicroBatch]) -> dict[str, LowRank]:
    """Return each adapted layer's static LoRA by the layer's name."""
    weights = _mean_weights(run, batches)
    low_ranks = {}
    for name, layer in lope_layers(run.model).items():
        bank = layer.lope.B
        B_KOR = torch.stack([bank.get_parameter(n).detach() for n in bank.normal_names]).cpu()
        w_K = weights[name].to("cpu", torch.float32)
        B_OR = torch.tensordot(w_K, B_KOR, dims=1)
        A_RD = layer.lope.A.detach().cpu().clone()
        low_ranks[name] = LowRank(A_RD, B_OR, layer.lope.config.scaling)
    return low_ranks


class StaticLinear(nn.Module):
    """A linear layer and its static LoRA, as PEFT computes them."""

    def __init__(self, base: nn.Module, low_rank: LowRank) -> None:
        super().__init__()
        self.base = base
        device = next(base.parameters()).device
        self.A_RD, self.B_OR = low_rank.A_RD.to(device), low_rank.B_OR.to(device)
        self.scaling = low_rank.scaling

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer's output."""
        delta = (x.float() @ self.A_RD.t()) @ self.B_OR.t() * self.scaling
        y = self.base(x)
        return y + delta.to(y.dtype)


@contextmanager
def swapped(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Context in which other modules stand in the place of the named ones."""
    originals = {name: model.get_submodule(name) for name in layers}
    try:
        for name, layer in layers.items():
            model.set_submodule(name, layer)
        yield
    finally:
        for name, layer in originals.items():
            model.set_submodule(name, layer)


def batch_context(run: LoadedRun, batch: MicroBatch) -> MicroBatch:
    """Return the batch where the model is, and tell the adapters of it."""
    moved = batch.to(run.model.device)
    run.context.begin_batch(moved.description())
    return moved


@torch.no_grad()
def _mean_weights(run: LoadedRun, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
    """Return each layer's mean weight of each normal expert over the real tokens."""
    layers = lope_layers(run.model)
    if not run.config.adapter.has_router:
        return {name: torch.ones(1) for name in layers}
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}

    def listen(name: str, layer: LopeLinear) -> Any:
        def add(adapter: LopeAdapter, inputs: tuple[Tensor, Tensor]) -> None:
            w_NTK = adapter.normal_weights(inputs[0])
            mask = run.context.batch.noise_mask
            of_input = adapter.stream == run.context.noise_stream
            if mask is None or not of_input or mask.numel() != w_NTK[..., 0].numel():
                mask = torch.ones(w_NTK.shape[:-1], device=w_NTK.device)
            mask_NT = mask.view(w_NTK.shape[:-1])  # of all rows in one, if they are flattened
            total_K = (w_NTK.double() * mask_NT.unsqueeze(-1)).flatten(0, -2).sum(0)
            sums[name] = sums.get(name, torch.zeros_like(total_K)) + total_K
            counts[name] = counts.get(name, torch.zeros_like(total_K[:1])) + mask_NT.sum()

        return layer.lope.register_forward_pre_hook(add)

    handles = [listen(name, layer) for name, layer in layers.items()]
    try:
        with exported_answer(run):
            for batch in batches:
                run.model(**batch_context(run, batch).inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return {name: sums[name] / counts[name] for name in layers}
