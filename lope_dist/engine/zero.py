"""DeepSpeed ZeRO as an `Engine`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lope_dist.config.engine import EngineConfig
from lope_dist.config.train import OptimizerConfig
from lope_dist.engine.ds_config import build_ds_config
from lope_dist.engine.expert_lists import gather_experts_whole
from lope_dist.engine.groups import Group, describe_groups
from lope_dist.engine.optimizer import build_adamw, set_lr
from lope_dist.engine.patience import be_patient
from lope_dist.engine.world import World
from lope_dist.engine.zero_state import (
    gather_gradients,
    gather_parts,
    gather_state,
    overwrite,
    scatter_state,
    spoil_gradients,
)
from lope_dist.engine.zero_trace import EvaluationTrace


class ZeroEngine:
    """ZeRO-2 or ZeRO-3 around a model whose parameters may already be partitioned.

    Each stage builds its own: flipping `requires_grad` under a live engine freezes nothing,
    because momentum and weight decay go on moving the partitions.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: list[dict[str, Any]],
        optimizer: OptimizerConfig,
        engine: EngineConfig,
        world: World,
        micro_batch: int,
    ) -> None:
        import deepspeed

        self._world = world
        self._stage = engine.zero_stage
        self._evaluation: EvaluationTrace | None = None
        names = {id(p): name for name, p in model.named_parameters()}
        self._trained = {names[id(p)]: p for group in groups for p in group["params"]}
        self._peaks = {group["name"]: group["lr"] for group in groups}
        largest = max(_numel(p) for group in groups for p in group["params"])
        if self._stage == 3:
            gather_experts_whole(model)
        self._engine: Any
        self._engine, *_ = deepspeed.initialize(
            model=model,  # pyright: ignore[reportArgumentType]
            optimizer=build_adamw(groups, optimizer),
            config=build_ds_config(
                engine,
                micro_batch=micro_batch,
                world_size=world.size,
                max_grad_norm=optimizer.max_grad_norm,
                largest_adapter_numel=largest,
            ),
            dist_init_required=False,
        )
        be_patient(engine.timeout_s)  # in the groups that it made

    @property
    def gradient_scale(self) -> float:
        """DeepSpeed averages gradients over ranks, and a loss is a part of a sum."""
        return float(self._world.size)

    def forward(self, inputs: dict[str, Tensor]) -> Any:
        """Return the model's output. Collective: yes."""
        return self._engine(**inputs, use_cache=False)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add a micro-batch's gradients. Collective: yes."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss * self.gradient_scale, scale_wrt_gas=False)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Context of forward passes without gradient. Collective: yes."""
        if self._stage == 3 and self._evaluation is None:
            self._evaluation = EvaluationTrace(self._engine.optimizer.parameter_offload)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self._evaluation is not None:
                stack.enter_context(self._evaluation.followed())
            yield

    def as_saved(self) -> AbstractContextManager[None]:
        """Context in which nothing is changed: what is stepped is saved."""
        return nullcontext()

    def step(self, lr_factor: float) -> float:
        """Step all groups and return the gradient's norm. Collective: yes.

        DeepSpeed itself leaves out a step whose norm over all ranks is not finite.
        """
        set_lr(self._inner_groups(), self._peaks, lr_factor)
        self._engine.step()
        return float(self._engine.get_global_grad_norm() or 0.0)

    def discard(self) -> None:
        """Drop the gradients, the way DeepSpeed does where they are not finite."""
        spoil_gradients(self._engine.optimizer)
        norm = self.step(0.0)
        assert not math.isfinite(norm), "DeepSpeed stepped with gradients that are not finite"

    def groups_in_use(self) -> list[Group]:
        """Return the groups of the optimizer inside ZeRO's."""
        return describe_groups(self._inner_groups())

    def gather(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return whole parameters by name, float32 on the host. Collective: yes."""
        import deepspeed

        requested = set(names)
        parameters = {n: p for n, p in self._engine.module.named_parameters() if n in requested}
        sharded = [p for p in parameters.values() if hasattr(p, "ds_id")]
        with deepspeed.zero.GatheredParameters(sharded, enabled=bool(sharded)):
            return {n: p.detach().float().cpu().clone() for n, p in parameters.items()}

    def gradients(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return whole gradients by name, float32 on the host. Collective: yes."""
        return gather_gradients({name: self._trained[name] for name in names})

    def assign(self, values: Mapping[str, Tensor]) -> None:
        """Overwrite parameters, the masters included. Collective: yes."""
        overwrite({name: self._trained[name] for name in values}, values, self._world)

    def rank_parts(self, whole: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return this rank's part of each trainable parameter, flat, without padding.

        Under ZeRO-2 every rank has it whole, and has a part of it here all the same.
        """
        parts = {}
        for name, parameter in self._trained.items():
            numel, held = _numel(parameter), getattr(parameter, "ds_tensor", None)
            size = -(-numel // self._world.size)
            start = min(self._world.rank * size, numel)
            stop = min(start + size, numel)
            if whole is not None:
                device = parameter.device if held is None else held.device
                parts[name] = whole[name].detach().flatten()[start:stop].to(device)
            elif held is not None:
                parts[name] = held.detach()[: stop - start]
            else:
                parts[name] = parameter.detach().flatten()[start:stop]
        return parts

    def whole(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors from the ranks' parts. Collective: yes."""
        return gather_parts(parts, self._trained, self._world)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return AdamW's state by parameter name, whole, on the host. Collective: yes."""
        return gather_state(self._engine.optimizer, self._trained)

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over AdamW's state, each rank its part. Collective: yes."""
        scatter_state(self._engine.optimizer, self._trained, state, self._world)

    def close(self) -> None:
        """Remove the engine's hooks and state from the model. Collective: yes."""
        self._world.barrier()
        self._engine.destroy()
        del self._engine, self._trained, self._evaluation

    def _inner_groups(self) -> list[dict[str, Any]]:
        return self._engine.optimizer.optimizer.param_groups


def _numel(parameter: nn.Parameter) -> int:
    """Return a parameter's size; a partitioned one shows 0 elements."""
    return getattr(parameter, "ds_numel", parameter.numel())
