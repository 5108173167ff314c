"""All experts of one layer, as one matrix product; what masking makes of them.

Shapes: N batch, T tokens, O out, R rank, E experts, K normal, M poisoning experts, P = N T,
Z = E R columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lope_dist.adapters.compensation import compensated_weights, cosines, grams, uses_cosine
from lope_dist.adapters.gemms import add_experts
from lope_dist.config.adapter import AdapterConfig, CompensationConfig


class Routed(NamedTuple):
    """What the experts get of a batch's tokens, in one of three forms.

    Tensors alone, and a tuple: ZeRO-3's hooks look for tensors in there::

        h, w         the bank makes z of them; without w the single expert weighs 1
        z            a kernel has made it of all experts
        h, router    a kernel weighs the experts by this router, and masks
    """

    h_NTR: Tensor | None = None
    """`A x`."""
    w_NTE: Tensor | None = None
    """The router's weights, float32."""
    z_PZ: Tensor | None = None
    router_ER: Tensor | None = None
    corrupted_NT: Tensor | None = None
    """bool: the poisoning experts learn from these tokens alone, the normal ones from the rest."""


class Mix(NamedTuple):
    """Which experts' sum is added, and how much of it."""

    scaling: float
    """Factor on the sum."""
    compensation: CompensationConfig | None = None
    """Given, the poisoning experts are masked."""
    left_out: int = 0
    """So many normal experts, the first ones, are left out with their weights."""


class ExpertBank(nn.Module):
    """All B of a layer, as parameters `normal_0`, ..., `poison_0`, ... of (O, R).

    They are read in this module's forward and nowhere else, so that ZeRO-3, which gathers a
    module's own parameters around its forward and backward, always has them whole.
    """

    def __init__(
        self, out_features: int, config: AdapterConfig, device: torch.device | None
    ) -> None:
        super().__init__()
        self.normal_names = tuple(f"normal_{i}" for i in range(config.num_normal))
        self.poison_names = tuple(f"poison_{i}" for i in range(config.num_poison))
        for name in (*self.normal_names, *self.poison_names):
            self.register_parameter(name, empty_parameter(out_features, config.rank, device=device))
        self.register_buffer("grams", None)

    def purify(self) -> None:
        """Keep the experts' Gram matrices and remove the poisoning experts for good.

        Masked answers stay as they are; there are no others any more.
        """
        assert self.poison_names, "there is no poisoning expert to remove"
        with torch.no_grad():
            self.grams = grams(self._experts(self.normal_names), self._experts(self.poison_names))
        for name in self.poison_names:
            del self._parameters[name]
        self.poison_names = ()

    def weigh(self, h_NTR: Tensor, w_NTE: Tensor, compensation: CompensationConfig) -> Tensor:
        """Return the normal experts' weights with the poisoning experts masked.

        Shapes: (N, T, R), the router's weights (N, T, E) -> float32 (N, T, K).
        """
        w_NTK, poison_w_NTM = w_NTE.tensor_split([len(self.normal_names)], dim=-1)
        theta_NTK = None
        if uses_cosine(compensation):
            grams_QF = self.grams
            if grams_QF is None:
                grams_QF = grams(self._experts(self.normal_names), self._experts(self.poison_names))
            theta_NTK = cosines(h_NTR.float(), poison_w_NTM, grams_QF)
        return compensated_weights(w_NTK, poison_w_NTM, theta_NTK, compensation)

    def _experts(self, names: tuple[str, ...]) -> list[Tensor]:
        return [getattr(self, name) for name in names]

    def _learners(self, corrupted_NT: Tensor) -> Tensor:
        """Return which expert learns from which token, bool (P, E)."""
        corrupted_P1 = corrupted_NT.flatten().unsqueeze(-1)
        return torch.cat(
            [
                ~corrupted_P1.expand(-1, len(self.normal_names)),
                corrupted_P1.expand(-1, len(self.poison_names)),
            ],
            dim=1,
        )

    def forward(self, y_NTO: Tensor, routed: Routed, mix: Mix) -> Tensor:
        """Add the weighted experts to the base layer's output, which may become the result."""
        if routed.router_ER is not None:
            return self._masked_by_kernel(y_NTO, routed, mix)
        h_NTR, w_NTE, z_PZ = routed.h_NTR, routed.w_NTE, routed.z_PZ
        experts = self._experts(self.normal_names)
        if mix.compensation is None:
            assert self.grams is None, "a purified layer answers masked only"
            experts += self._experts(self.poison_names)
        else:
            assert h_NTR is not None, "no kernel of all experts masks"
            assert w_NTE is not None, "masking needs a poisoning expert, and two experts a router"
            w_NTE = self.weigh(h_NTR, w_NTE, mix.compensation)
        if mix.left_out:
            assert w_NTE is not None, "the only expert cannot be left out"
            experts, w_NTE = experts[mix.left_out :], w_NTE[..., mix.left_out :]
        if z_PZ is None:
            assert h_NTR is not None
            z_NTZ = h_NTR
            if w_NTE is not None:
                z_NTZ = (w_NTE.unsqueeze(-1) * h_NTR.float().unsqueeze(-2)).flatten(-2)
            z_PZ = z_NTZ.flatten(0, -2).to(y_NTO.dtype)
        learns_PE = None if routed.corrupted_NT is None else self._learners(routed.corrupted_NT)
        return add_experts(y_NTO, z_PZ, experts, mix.scaling, learns_PE)

    def _masked_by_kernel(self, y_NTO: Tensor, routed: Routed, mix: Mix) -> Tensor:
        """Do the same as `forward` with the experts stacked once, and one kernel for z."""
        from lope_dist.adapters.kernels.masked import route_masked

        h_NTR, router_ER, compensation = routed.h_NTR, routed.router_ER, mix.compensation
        assert h_NTR is not None
        assert router_ER is not None
        assert compensation is not None, "this kernel masks"
        K, R = len(self.normal_names), h_NTR.shape[-1]
        needs_grams, grams_ZZ = uses_cosine(compensation), self.grams
        are_kept = grams_ZZ is not None
        names = self.normal_names
        if needs_grams and not are_kept:
            names += self.poison_names
        B_OZ = torch.cat(self._experts(names), dim=1)
        if needs_grams and not are_kept:
            grams_ZZ = B_OZ.t() @ B_OZ
        z_PZ = route_masked(
            h_NTR.flatten(0, -2),
            router_ER,
            K,
            grams_ZZ if needs_grams else None,
            are_kept,
            compensation,
            y_NTO.dtype,
        )
        return add_experts(y_NTO, z_PZ, [B_OZ[:, : K * R]], mix.scaling)


def empty_parameter(rows: int, columns: int, *, device: torch.device | None) -> nn.Parameter:
    """Return a float32 parameter without values."""
    return nn.Parameter(torch.empty(rows, columns, dtype=torch.float32, device=device))
