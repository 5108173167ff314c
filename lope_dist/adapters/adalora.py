"""AdaLoRA: peft's layer and its rank allocation, with this project's randomness and context.

peft's `SVDLinear` computes `base(x) + B (E * (A x)) lora_alpha / initial_rank` around a layer of
any precision. Ours asks the context whether it takes part, draws dropout from the tokens' keys,
and keeps its parameters in float32.

Paper: arXiv 2303.10512.
Shapes: N batch, T tokens, D in, O out, R initial rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from peft import AdaLoraConfig as PeftConfig
from peft.tuners.adalora import SVDLinear
from torch import Tensor, nn

from lope_dist.adapters.base import AdapterModule
from lope_dist.adapters.context import AdapterContext
from lope_dist.adapters.counter_noise import keep_bits, keep_scale, salt_of
from lope_dist.adapters.inject import find_targets, initialize_module
from lope_dist.config.baselines import AdaLoraConfig
from lope_dist.core.roles import Role
from lope_dist.core.seeds import example_rng

_NAME = "default"  # peft's adapters have names; there is one
_STD = 0.02  # of A and B at first, as in peft
A, B, E = (f"lora_{part}.{_NAME}" for part in "ABE")


class AdaLoraLinear(SVDLinear, AdapterModule):
    """A linear layer of any kind (`base_layer`) and its singular triplets."""

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
        device = next(base.parameters()).device
        rank = config.initial_rank
        peft = peft_config(config, total_steps=1)
        super().__init__(base, _NAME, peft, r=rank, lora_alpha=config.lora_alpha)  # type: ignore[arg-type]
        self.name, self.seed, self.context = name, seed, context
        shapes = {"A": (rank, base.in_features), "B": (base.out_features, rank), "E": (rank, 1)}
        for part, shape in shapes.items():  # peft takes the base's dtype
            values = torch.empty(shape, dtype=torch.float32, device=device)
            getattr(self, f"lora_{part}")[_NAME] = nn.Parameter(values)
        del self.ranknum  # a constant, which as a parameter would be counted and sharded
        self.ranknum = {_NAME: float(rank)}  # type: ignore[assignment]
        salt = salt_of(seed, f"dropout:{name}")
        self.lora_dropout[_NAME] = _KeyedDropout(config.dropout, context, stream, salt)

    @property
    def disable_adapters(self) -> bool:
        """Whether the base layer answers alone."""
        return self.context.experts == "none"

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


class _KeyedDropout(nn.Module):
    """Dropout that is a function of the tokens' keys, whatever the split into batches."""

    def __init__(self, p: float, context: AdapterContext, stream: str, salt: int) -> None:
        super().__init__()
        self.p, self.context, self.stream, self.salt = p, context, stream, salt

    def forward(self, x_NTD: Tensor) -> Tensor:
        """Drop channels of tokens while training."""
        if not self.training or self.p == 0:
            return x_NTD
        keys_NT = self.context.dropout_keys(self.stream, x_NTD.shape[:-1])
        keep_NTD = keep_bits(keys_NT, self.salt, x_NTD.shape[-1], self.p) != 0
        return x_NTD * keep_NTD * keep_scale(self.p)


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


def orthogonality(parameters: Sequence[tuple[str, Tensor]]) -> Tensor:
    """Return the regulariser, the mean of `|A A^T - I|` and `|B^T B - I|` over all matrices.

    As peft's, whose model computes it only beside a loss of its own.
    """
    norms = []
    for name, value in parameters:
        if name.endswith((A, B)):
            product_RR = value @ value.t() if name.endswith(A) else value.t() @ value
            identity_RR = torch.eye(len(product_RR), device=value.device)
            norms.append(torch.linalg.matrix_norm(product_RR - identity_RR))
    return torch.stack(norms).mean()
