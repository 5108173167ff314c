"""AdaLoRA: `base(x) + B (E * (A x)) lora_alpha / initial_rank`, its small singular values pruned.

The same answers, regulariser and allocation of ranks as peft's, whose names the parameters have.
But A, E and B are modules, each of which reads its own values in its own forward, as every adapter
does here: peft's layer reads all three from outside, and its regulariser reads them after the
forward pass.

Paper: arXiv 2303.10512.
Shapes: N batch, T tokens, D in, O out, R initial rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from peft import AdaLoraConfig as PeftConfig
from torch import Tensor, nn

from lope_dist.adapters.auxiliary import ORTHOGONALITY, AuxiliaryLosses
from lope_dist.adapters.base import BesideLayer, adapter_modules
from lope_dist.adapters.context import AdapterContext
from lope_dist.adapters.counter_noise import keep_bits, keep_scale, salt_of
from lope_dist.adapters.experts import empty_parameter
from lope_dist.adapters.inject import initialize_module
from lope_dist.adapters.targets import find_targets
from lope_dist.config.baselines import AdaLoraConfig
from lope_dist.core.roles import Role
from lope_dist.core.seeds import example_rng

_STD = 0.02  # of A and B at first, as in peft
_EPSILON = 1e-5  # what peft adds to the rank that it divides by
A, B, E = (f"lora_{part}.default" for part in "ABE")  # peft's adapters have names; there is one


class _Triplets(nn.Module):
    """One of A, B and E: float32 values that are read in this module's forward alone."""

    def __init__(self, rows: int, columns: int, device: torch.device | None) -> None:
        super().__init__()
        self.default = empty_parameter(rows, columns, device=device)


class _Directions(_Triplets):
    """A, whose rows are to become orthogonal, or B, whose columns are."""

    def forward(self, x: Tensor, auxiliary: AuxiliaryLosses | None) -> Tensor:
        """Multiply with the matrix; the regulariser hangs on the result, if it is on at all."""
        y = F.linear(x, self.default)
        if auxiliary is not None and auxiliary.is_on(ORTHOGONALITY):
            y = auxiliary.make_orthogonal(y, self.default)
        return y


class _Values(_Triplets):
    """E, the singular values."""

    def forward(self, h_NTR: Tensor) -> Tensor:
        """Multiply each direction with its value."""
        return h_NTR * self.default.flatten()


class AdaLoraLinear(nn.Module, BesideLayer):
    """A linear layer of any kind (`base`) and its singular triplets."""

    def __init__(
        self,
        base: nn.Linear,
        config: AdaLoraConfig,
        context: AdapterContext,
        *,
        name: str,
        stream: str,
        seed: int,
    ) -> None:
        super().__init__()
        device, rank = next(base.parameters()).device, config.initial_rank
        self.name, self.seed, self.context, self.stream = name, seed, context, stream
        self.dropout, self.salt = config.dropout, salt_of(seed, f"dropout:{name}")
        self.scaling = config.lora_alpha / (rank + _EPSILON)
        self.base = base
        self.lora_A = _Directions(rank, base.in_features, device)
        self.lora_E = _Values(rank, 1, device)
        self.lora_B = _Directions(base.out_features, rank, device)

    def forward(self, x_NTD: Tensor) -> Tensor:
        """Compute the base layer plus the triplets."""
        y_NTO = self.base(x_NTD)
        if self.context.answer.experts == "none":
            return y_NTO
        batch = self.context.batch
        shape, x_NTD = y_NTO.shape, batch.as_rows(self.stream, x_NTD.float())
        y_NTO = batch.as_rows(self.stream, y_NTO)
        if self.training and self.dropout > 0:
            keys_NT = batch.dropout_keys(self.stream, x_NTD.shape[:-1])
            keep_NTD = keep_bits(keys_NT, self.salt, x_NTD.shape[-1], self.dropout) != 0
            x_NTD = x_NTD * keep_NTD * keep_scale(self.dropout)
        auxiliary = self.context.stage.auxiliary if self.training else None
        h_NTR = self.lora_E(self.lora_A(x_NTD, auxiliary))
        y_NTO = y_NTO + (self.lora_B(h_NTR, auxiliary) * self.scaling).to(y_NTO.dtype)
        return y_NTO.view(shape)

    def roles(self) -> dict[str, Role]:
        """Return the role of each adapter parameter."""
        return dict.fromkeys((A, B, E), Role.ADAPTER)

    def initial_values(self) -> dict[str, Tensor]:
        """Return peft's: A and B normal, E zero, so the model starts as its base."""
        values = {E: torch.zeros_like(self.get_parameter(E), device="cpu")}
        for part in (A, B):
            rng = example_rng(self.seed, f"init:{self.name}.{part}", 0, 0)
            drawn = rng.normal(0.0, _STD, size=tuple(self.get_parameter(part).shape))
            values[part] = torch.from_numpy(drawn).to(torch.float32)
        return values


def inject_adalora(
    model: nn.Module,
    config: AdaLoraConfig,
    context: AdapterContext,
    *,
    targets: Sequence[str],
    stream_of: Callable[[str], str],
    seed: int,
) -> None:
    """Wrap the matching linear layers of a frozen model.

    Raises:
        LopeError: no target, or one that matches no linear layer.
    """
    for name, base in find_targets(model, targets).items():
        layer = AdaLoraLinear(base, config, context, name=name, stream=stream_of(name), seed=seed)
        layer.train(base.training)
        if not layer.get_parameter(A).is_meta:
            initialize_module(layer)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)


def num_matrices(model: nn.Module) -> int:
    """Return how many matrices of a model the regulariser is the mean over."""
    layers = [m for m in adapter_modules(model).values() if isinstance(m, AdaLoraLinear)]
    return 2 * len(layers)


def peft_config(config: AdaLoraConfig, total_steps: int) -> PeftConfig:
    """Return peft's configuration for a stage of so many steps."""
    return PeftConfig(
        target_r=config.target_rank,
        init_r=config.initial_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        init_lora_weights=False,
        tinit=int(config.initial_share * total_steps),
        tfinal=int(config.final_share * total_steps),
        deltaT=config.allocate_every_steps,
        orth_reg_weight=config.orthogonality,
        total_step=total_steps,
    )
