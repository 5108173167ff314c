"""Which singular values AdaLoRA prunes: peft's allocator, fed with whole tensors on the host.

Sharding engines have no `parameter.grad` and keep masters of their own, which is why the allocator
does not see the model: it is given values and gradients and says what becomes of E. Every rank
gives it the same and comes to the same ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from peft.tuners.adalora import RankAllocator
from torch import Tensor, nn

from lope_dist.adapters.adalora import E, peft_config
from lope_dist.config.baselines import AdaLoraConfig
from lope_dist.core.errors import LopeError

_STEP = "allocation.step"
_IMPORTANCE, _UNCERTAINTY, _KEPT = "importance", "uncertainty", "kept"


class RankAllocation:
    """The allocation of one stage.

    Args:
        config: AdaLoRA's settings.
        shapes: Of A, B and E of every layer, by parameter name.
        total_steps: Optimizer steps of the stage.
    """

    def __init__(
        self, config: AdaLoraConfig, shapes: Mapping[str, torch.Size], total_steps: int
    ) -> None:
        self._shapes = dict(shapes)
        peft = peft_config(config, total_steps)
        self._end = total_steps - peft.tfinal
        self._allocator = RankAllocator(
            _Mirror({n: torch.empty(s, device="meta") for n, s in shapes.items()}), peft, "default"
        )
        self._step = 0
        self._kept: dict[str, list[bool]] | None = None

    @property
    def needs_gradients(self) -> bool:
        """Whether the next step's gradients still count for a value's importance."""
        return self._kept is None

    def after_step(
        self, values: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return each E, some of its values pruned, after a step of the optimizer.

        Args:
            values: Parameters after the step, whole, float32 on the host.
            gradients: Those that it stepped with; not read once the ranks are final.
        """
        self._step += 1
        mirror = _Mirror(values, gradients)
        if self._kept is not None:
            self._allocator.mask_using_rank_pattern(mirror, self._kept)
        elif self._step < self._end:
            self._allocator.update_and_allocate(mirror, self._step)
        else:
            if not self._allocator.exp_avg_ipt:
                self._allocator.update_ipt(mirror)
            _, self._kept = self._allocator.update_and_allocate(mirror, self._step, force_mask=True)
            self._allocator.reset_ipt()
        return {n: p.detach() for n, p in mirror.named_parameters() if n.endswith(E)}

    def skip_step(self) -> None:
        """Count a step that was left out."""
        self._step += 1

    def state(self) -> dict[str, Tensor]:
        """Return what a resume needs, by name, float32 on the host."""
        state = {_STEP: torch.tensor(float(self._step))}
        for name, shape in self._shapes.items():
            zeros = torch.zeros(shape)
            state[f"{name}.{_IMPORTANCE}"] = self._allocator.exp_avg_ipt.get(name, zeros).clone()
            state[f"{name}.{_UNCERTAINTY}"] = self._allocator.exp_avg_unc.get(name, zeros).clone()
        for name, kept in (self._kept or {}).items():
            state[f"{name}.{_KEPT}"] = torch.tensor(kept, dtype=torch.float32)
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Go on from what `state` returned; return the rest of ``state``, which is not of it.

        Raises:
            LopeError: a tensor is missing or of another shape.
        """
        rest = dict(state)
        try:
            self._step = int(rest.pop(_STEP))
            for name, shape in self._shapes.items():
                if self._step:
                    self._allocator.ipt[name] = torch.zeros(shape)
                    self._allocator.exp_avg_ipt[name] = rest.pop(f"{name}.{_IMPORTANCE}").view(
                        shape
                    )
                    self._allocator.exp_avg_unc[name] = rest.pop(f"{name}.{_UNCERTAINTY}").view(
                        shape
                    )
        except (KeyError, RuntimeError) as error:
            raise LopeError(
                f"The checkpoint's rank allocation does not fit this adapter ({error}); was a "
                "file of it replaced?"
            ) from None
        kept = {n: rest.pop(f"{n}.{_KEPT}") for n in self._shapes if f"{n}.{_KEPT}" in rest}
        self._kept = {name: value.bool().tolist() for name, value in kept.items()} or None
        return rest


class _Mirror:
    """What peft's allocator asks of a model: its parameters by name, with their gradients."""

    def __init__(
        self, values: Mapping[str, Tensor], gradients: Mapping[str, Tensor] | None = None
    ) -> None:
        self._parameters = {name: nn.Parameter(value) for name, value in values.items()}
        for name, gradient in (gradients or {}).items():
            self._parameters[name].grad = gradient

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return self._parameters.items()
