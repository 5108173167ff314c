"""The LoPE layer: one A, several experts B, a router, one GEMM for all experts.

    x (N,T,D) ------------------- base (frozen, any precision) --------------> y (N,T,O)
      |                                                                            |
      +- dropout -- A (R,D) -> h (N,T,R) --+------------------+                    |
                                           |                  |                    |
                      router (E,R): softmax -> w (N,T,E)      |                    |
                                           |                  |                    |
                                           +- z = vec(w x h) -+                    |
                                                 (N,T,E R)                         |
                                                    |                              |
                                     [B_1 ... B_K | B_D] (O, E R)                  |
                                                    |                              |
                                                    +----- * lora_alpha / R -----> + -> (N,T,O)

`sum_i w_i B_i h = B_cat z`: the price of one LoRA of rank E R, and no O-wide output of a single
expert ever exists. Masking leaves the poisoning columns out of z and B_cat altogether.

Paper: sections 3.1 (adapter, router) and 3.3 (masking).
Shapes: N batch, T tokens, D in, O out, R rank, E experts, K normal, M poisoning experts.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lope_dist.adapters.base import BesideLayer, adapter_modules
from lope_dist.adapters.context import AdapterContext
from lope_dist.adapters.counter_noise import salt_of
from lope_dist.adapters.experts import ExpertBank, Mix, Routed, empty_parameter
from lope_dist.adapters.gemms import project
from lope_dist.adapters.kernels import launching
from lope_dist.config.adapter import AdapterConfig
from lope_dist.core.roles import Role
from lope_dist.core.seeds import example_rng


class LopeAdapter(nn.Module):
    """Shared A, router and expert bank. Masters are float32, computed in x's dtype."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        config: AdapterConfig,
        context: AdapterContext,
        *,
        stream: str,
        salt: int,
        device: torch.device | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.context = context
        self.stream = stream
        self.salt = salt
        self.A = empty_parameter(config.rank, in_features, device=device)
        self.B = ExpertBank(out_features, config, device)
        if config.has_router:
            self.router_width = config.rank if config.router == "rank" else in_features
            self.router = empty_parameter(config.num_experts, self.router_width, device=device)
        self.usage: Tensor | None = None  # float32 (2, E + 1), for `RouterUsage`
        self.usage_knows_marks = False

    def forward(self, x_NTD: Tensor, y_NTO: Tensor) -> Tensor:
        """Return the base layer's output ``y_NTO`` with the experts added."""
        config, context, answer = self.config, self.context, self.context.answer
        keys_P = None
        if self.training and config.dropout > 0:
            keys_P = context.batch.dropout_keys(self.stream, x_NTD.shape[:-1]).flatten()
        learns_P = self._learns()
        h_PR = project(x_NTD.flatten(0, -2), self.A, keys_P, self.salt, config.dropout, learns_P)
        h_NTR = h_PR.view(*x_NTD.shape[:-1], config.rank)
        if self._a_kernel_routes(h_PR):
            routed = self._routed_by_kernel(h_NTR, y_NTO.dtype)
        else:
            routed = self._routed(x_NTD, h_NTR, learns_P)
        if self.training:
            routed = routed._replace(corrupted_NT=context.batch.corrupted_targets)
        mix = Mix(
            config.scaling * answer.scale,
            answer.compensation if answer.experts == "masked" else None,
            left_out=int(answer.experts == "masked_normal"),
        )
        return self.B(y_NTO, routed, mix)

    def _routed(self, x_NTD: Tensor, h_NTR: Tensor, learns_P: Tensor | None) -> Routed:
        if not self.config.has_router:
            return Routed(h_NTR)
        w_NTE = self._route(x_NTD, h_NTR, learns_P).softmax(-1, dtype=torch.float32)
        if self._collects:
            self._collect(F.pad(w_NTE.detach().flatten(0, -2), (0, 1), value=1.0))
        if self.context.answer.experts == "all" and self._poison_scale != 1:
            w_NTK, poison_NTM = w_NTE.tensor_split([self.config.num_normal], dim=-1)
            w_NTE = torch.cat([w_NTK, poison_NTM * self._poison_scale], dim=-1)
        return Routed(h_NTR, w_NTE)

    def _routed_by_kernel(self, h_NTR: Tensor, dtype: torch.dtype) -> Routed:
        from lope_dist.adapters.kernels.routing import route

        if self.context.answer.experts == "masked":
            return Routed(h_NTR, router_ER=self.router)
        w_PE1, z_PZ = route(h_NTR.flatten(0, -2), self.router, dtype)
        if self._collects:
            self._collect(w_PE1)
        return Routed(z_PZ=z_PZ)

    def normal_weights(self, x_NTD: Tensor) -> Tensor:
        """Return what the normal experts weigh as the context has the model answer.

        In evaluation mode, and for who has the parameters whole.

        Shapes: (N, T, D) -> float32 (N, T, K).
        """
        h_NTR = (x_NTD.flatten(0, -2) @ self.A.to(x_NTD.dtype).t()).view(*x_NTD.shape[:-1], -1)
        w_NTE = self._route(x_NTD, h_NTR).softmax(-1, dtype=torch.float32)
        answer = self.context.answer
        if answer.experts == "masked":
            return self.B.weigh(h_NTR, w_NTE, answer.compensation)
        return w_NTE[..., : self.config.num_normal]

    def _a_kernel_routes(self, h_PR: Tensor) -> bool:
        """Whether a kernel does all of the routing: where nobody else needs what is in between."""
        config, experts = self.config, self.context.answer.experts
        if not config.has_router or config.router != "rank":
            return False
        if not launching.run_on(h_PR, config.rank):
            return False
        if experts == "masked":
            return not (torch.is_grad_enabled() or self._collects)
        if self._learns() is not None:
            return False
        return experts == "all" and self._poison_scale == 1

    @property
    def _collects(self) -> bool:
        return self.training and self.context.stage.collects_usage

    @property
    def _poison_scale(self) -> float:
        is_left_out = self.training and self.context.batch.leaves_out_poison
        return 0.0 if is_left_out else self.context.answer.poison_scale

    def _learns(self) -> Tensor | None:
        """Return from which tokens A and the router learn, bool (P,); None: from all."""
        if not (self.training and self.context.stage.routes_strictly):
            return None
        corrupted_NT = self.context.batch.corrupted_targets
        assert corrupted_NT is not None, "a stage that routes strictly marks every batch"
        return ~corrupted_NT.flatten()

    def _route(self, x_NTD: Tensor, h_NTR: Tensor, learns_P: Tensor | None = None) -> Tensor:
        """Return the router's logits, (N, T, E)."""
        read_NTI, router_EI = h_NTR.float(), self.router
        if self.config.router != "rank":
            read_NTI, router_EI = x_NTD, self.router.to(x_NTD.dtype)
        logits_NTE = F.linear(read_NTI, router_EI)
        if learns_P is None:
            return logits_NTE
        learns_NT1 = learns_P.view(*logits_NTE.shape[:-1], 1)
        return torch.where(learns_NT1, logits_NTE, F.linear(read_NTI, router_EI.detach()))

    def _collect(self, w_PE1: Tensor) -> None:
        """Add the weights up, over real tokens and over corrupted ones: one product."""
        batch, has_masks = self.context.batch, self.stream == self.context.noise_stream
        if self.usage is None:
            self.usage = w_PE1.new_zeros(2, w_PE1.shape[1])
        self.usage.addmm_(batch.usage_marks(w_PE1, has_masks=has_masks), w_PE1)
        if has_masks and batch.corrupted_mask is not None and self.config.num_poison:
            self.usage_knows_marks = True


class LopeLinear(nn.Module, BesideLayer):
    """A linear layer of any kind (`base`) and its adapter (`lope`)."""

    def __init__(
        self,
        base: nn.Linear,
        config: AdapterConfig,
        context: AdapterContext,
        *,
        name: str,
        stream: str,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        # never weight.shape: it is packed under NF4 and (0,) under ZeRO-3
        self.in_features, self.out_features = base.in_features, base.out_features
        self.name = name
        self.seed = seed
        self.base = base
        self.lope = LopeAdapter(
            base.in_features,
            base.out_features,
            config,
            context,
            stream=stream,
            salt=salt_of(seed, f"dropout:{name}"),
            device=device,
        )

    def forward(self, x_NTD: Tensor) -> Tensor:
        """Compute the base layer plus the experts that the context selects."""
        y_NTO = self.base(x_NTD)
        context, stream = self.lope.context, self.lope.stream
        if context.answer.experts == "none":
            return y_NTO
        rows = context.batch.as_rows(stream, x_NTD), context.batch.as_rows(stream, y_NTO)
        return self.lope(*rows).view_as(y_NTO)

    def roles(self) -> dict[str, Role]:
        """Return the role of each adapter parameter, named relative to this layer."""
        bank = self.lope.B
        roles = {"lope.A": Role.SHARED_A}
        roles |= {f"lope.B.{name}": Role.NORMAL_B for name in bank.normal_names}
        roles |= {f"lope.B.{name}": Role.POISON_B for name in bank.poison_names}
        if self.lope.config.has_router:
            roles["lope.router"] = Role.ROUTER
        return roles

    def initial_values(self) -> dict[str, Tensor]:
        """Return the adapter's initial parameters, named relative to this layer.

        A is Kaiming uniform and every B zero, as in LoRA, so the model starts as its base.
        The router is random too, never zero: the normal experts start alike, and with equal
        weights they would get equal gradients and stay alike for ever. Drawn for each
        parameter's name, so rank, device and order of creation change nothing.

        Shapes: float32 on the CPU.
        """
        config, bank = self.lope.config, self.lope.B
        values = {"lope.A": self._kaiming("lope.A", config.rank, self.in_features)}
        for name in (*bank.normal_names, *bank.poison_names):
            values[f"lope.B.{name}"] = torch.zeros(self.out_features, config.rank)
        if config.has_router:
            shape = config.num_experts, self.lope.router_width
            values["lope.router"] = self._kaiming("lope.router", *shape)
        return values

    def _kaiming(self, name: str, rows: int, fan_in: int) -> Tensor:
        """Return Kaiming uniform values (a = sqrt 5), U(-1, 1) / sqrt(fan_in)."""
        rng = example_rng(self.seed, f"init:{self.name}.{name}", 0, 0)
        values = rng.uniform(-1.0, 1.0, size=(rows, fan_in)) / math.sqrt(fan_in)
        return torch.from_numpy(values).to(torch.float32)


def lope_layers(model: nn.Module) -> dict[str, LopeLinear]:
    """Return the adapter layers of a model by module name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LopeLinear)}


def model_roles(model: nn.Module) -> dict[str, Role]:
    """Return the role of every parameter; what no module declares is `Role.BASE`."""
    declared = {
        f"{name}.{parameter}" if name else parameter: role
        for name, layer in adapter_modules(model).items()
        for parameter, role in layer.roles().items()
    }
    roles = {name: declared.pop(name, Role.BASE) for name, _ in model.named_parameters()}
    assert not declared, f"declared, but no parameters: {sorted(declared)}"
    return roles


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what an adapter's file holds, by name: the adapters' parameters and Grams."""
    names = [name for name, role in model_roles(model).items() if role != Role.BASE]
    tensors: dict[str, Tensor] = {name: model.get_parameter(name) for name in names}
    for name, layer in lope_layers(model).items():
        if layer.lope.B.grams is not None:
            tensors[f"{name}.lope.B.grams"] = layer.lope.B.grams
    return tensors
