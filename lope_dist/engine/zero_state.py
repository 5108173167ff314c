"""AdamW's state inside DeepSpeed's ZeRO optimizers, by parameter name and whole.

ZeRO flattens a group's parameters into one tensor and gives each rank a part of it; the inner
optimizer's state lies at those flat parts. `deepspeed.utils` reads and writes the moments of one
parameter. What it has no function for is done here: the step counts, which belong to the flat
parts, and state that does not exist yet because nothing was stepped. `tests/dist` holds it to
the local engine's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lope_dist.engine.optimizer import MOMENTS, STEP, check_state
from lope_dist.engine.world import World


def gather_state(optimizer: Any, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return `Engine.optimizer_state` of a ZeRO optimizer. Collective: yes."""
    from deepspeed.utils import safe_get_full_optimizer_state

    step = _steps_done(optimizer)
    if step:
        _link(optimizer)
    state: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        for key in MOMENTS:
            if step:
                whole = safe_get_full_optimizer_state(parameter, key)
                assert whole is not None, f"DeepSpeed has no {key} of {name}"
                state[f"{name}.{key}"] = whole.detach().float().cpu().clone()
            else:
                state[f"{name}.{key}"] = torch.zeros(_shape(parameter))
        state[f"{name}.{STEP}"] = torch.tensor(step)
    return state


def scatter_state(
    optimizer: Any,
    parameters: Mapping[str, nn.Parameter],
    state: Mapping[str, Tensor],
    world: World,
) -> None:
    """Do `Engine.load_optimizer_state`: give AdamW's state to an optimizer before its steps."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    check_state(state, {name: _shape(p) for name, p in parameters.items()})
    steps = {float(state[f"{name}.{STEP}"]) for name in parameters}
    assert len(steps) == 1, f"parameters were stepped unequally often: {steps}"
    (step,) = steps
    for flat in _flat_parts(optimizer):
        # A tensor for each part: torch counts it up in place.
        held = {STEP: torch.tensor(step), **{key: torch.zeros_like(flat) for key in MOMENTS}}
        optimizer.optimizer.state[flat] = held
    _link(optimizer)
    for name, parameter in parameters.items():
        for key in MOMENTS:
            whole = state[f"{name}.{key}"]
            if hasattr(parameter, "ds_id"):
                # The function for whole values fails where the ranks do not divide them.
                part = _part(whole, world.rank, world.size)
                safe_set_local_optimizer_state(parameter, part, key)
            else:
                safe_set_full_optimizer_state(parameter, whole, key)


def gather_gradients(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return this step's whole gradients, float32 on the host. Collective: yes."""
    from deepspeed.utils import safe_get_full_grad

    gradients = {}
    for name, parameter in parameters.items():
        whole = safe_get_full_grad(parameter)
        assert whole is not None, f"DeepSpeed has no gradient of {name}"
        gradients[name] = whole.detach().float().cpu().clone().view(_shape(parameter))
    return gradients


def gather_parts(
    parts: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], world: World
) -> dict[str, Tensor]:
    """Return whole tensors from the ranks' parts, in one exchange; `Engine.whole`.

    Each part is padded to the size of the first rank's.
    """
    shapes = {name: _shape(parameters[name]) for name in parts}
    sizes = {name: -(-shape.numel() // world.size) for name, shape in shapes.items()}
    flat = torch.zeros(sum(sizes.values()), device=world.device)
    for part, slot in zip(parts.values(), flat.split(list(sizes.values())), strict=True):
        slot[: part.numel()].copy_(part)
    gathered = flat.new_empty(world.size, len(flat))
    torch.distributed.all_gather_into_tensor(gathered.view(-1), flat)
    columns = gathered.cpu().split(list(sizes.values()), dim=1)
    return {
        name: column.flatten()[: shapes[name].numel()].view(shapes[name])
        for name, column in zip(parts, columns, strict=True)
    }


def overwrite(
    parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor], world: World
) -> None:
    """Overwrite parameters: each rank its part of the master, and the copy it computes with."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    for name, value in values.items():
        parameter: Any = parameters[name]
        if not hasattr(parameter, "ds_id"):
            safe_set_full_fp32_param(parameter, value)
            parameter.data.copy_(value)
            continue
        part = _part(value, world.rank, world.size)
        safe_set_local_fp32_param(parameter, part)
        parameter.ds_tensor.data.copy_(part)
        if parameter.data.numel():  # resident
            parameter.data.copy_(value)


def spoil_gradients(optimizer: Any) -> None:
    """Make this step's gradients NaN where DeepSpeed reads their norm."""
    for gradients in optimizer.averaged_gradients.values():
        for gradient in gradients or ():
            gradient.fill_(float("nan"))
    norms = getattr(optimizer, "norm_for_param_grads", {})  # offloaded: taken in the backward pass
    norms.update({key: norm * float("nan") for key, norm in norms.items()})


def _link(optimizer: Any) -> None:
    """Let ZeRO-2's parameters know their moments, which ZeRO-3's need not.

    DeepSpeed does so once, when the first of several groups has been stepped and the others'
    moments do not exist yet.
    """
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    flats = getattr(optimizer, "single_partition_of_fp32_groups", ())
    for flat, parameters in zip(flats, getattr(optimizer, "bit16_groups", ()), strict=True):
        lazy_init_hp_params_optimizer_state(parameters, flat, optimizer.optimizer.state)


def _flat_parts(optimizer: Any) -> list[Tensor]:
    """Return this rank's flat parts, which the inner optimizer steps."""
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups"):
        if hasattr(optimizer, name):  # ZeRO-3, ZeRO-2
            return list(getattr(optimizer, name))
    raise AssertionError(f"{type(optimizer).__name__} is neither ZeRO-2 nor ZeRO-3")


def _steps_done(optimizer: Any) -> float:
    held = [optimizer.optimizer.state.get(flat) for flat in _flat_parts(optimizer)]
    steps = {float(state[STEP]) for state in held if state}
    assert len(steps) <= 1, f"parts were stepped unequally often: {steps}"
    return steps.pop() if steps else 0.0


def _part(whole: Tensor, rank: int, size: int) -> Tensor:
    """Return a rank's part of a parameter under ZeRO-3, the padding of the last ones included."""
    numel = -(-whole.numel() // size)
    part = whole.new_zeros(numel)
    values = whole.flatten()[rank * numel : (rank + 1) * numel]
    part[: values.numel()] = values
    return part


def _shape(parameter: nn.Parameter) -> torch.Size:
    """Return a parameter's shape; a partitioned one shows `(0,)`."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))
