"""How far a stage has moved the adapter: the mean change of A, of B_D and of the normal B.

Paper: §4, figures 5 and 6 (arXiv 2505.23868).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from lope_dist.adapters.lope import adapter_tensors
from lope_dist.core.roles import Role
from lope_dist.engine.base import Engine
from lope_dist.engine.world import World
from lope_dist.train.checkpoint.folder import (
    Checkpoint,
    checkpoint_at,
    checkpoint_defect,
    install_checkpoint,
)
from lope_dist.train.checkpoint.progress import RunProgress
from lope_dist.train.run.setup import Session


class Drift:
    """The mean absolute change of each trained role's parameters since the stage's start.

    Each rank keeps and compares its own part, so nothing is gathered: a measurement is one sum
    of a number for each role.

    Args:
        engine: The stage's engine.
        roles: Role of each adapter parameter.
        shapes: Shape of each adapter parameter, whole.
        world: The ranks.
        start: Values as the stage began, whole, by name; default: as they are now.
    """

    def __init__(
        self,
        engine: Engine,
        roles: Mapping[str, Role],
        shapes: Mapping[str, torch.Size],
        world: World,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._engine, self._world = engine, world
        self._start = {name: part.clone() for name, part in engine.rank_parts(start).items()}
        self._names: dict[Role, list[str]] = {}
        for name in self._start:
            self._names.setdefault(roles[name], []).append(name)
        self._numel = {
            role: sum(shapes[name].numel() for name in names) for role, names in self._names.items()
        }

    def measure(self) -> dict[str, float]:
        """Return role -> mean absolute change. Collective: yes."""
        parts = self._engine.rank_parts()
        sums = [
            get_total_norm([parts[name] - self._start[name] for name in names], norm_type=1.0)
            for names in self._names.values()
        ]
        totals = self._world.sum(torch.stack(sums).tolist())
        return {
            str(role): total / numel
            for (role, numel), total in zip(self._numel.items(), totals, strict=True)
        }


def values_at_stage_start(session: Session, progress: RunProgress) -> dict[str, Tensor] | None:
    """Return the adapter as the stage began that a resume goes on in the middle of.

    To be called while the model has its initial values still. Those are where a first stage began,
    unless it began with another run's adapter; a later one began at the end of the stage before it.
    That checkpoint is loaded into the model. None if it is missing or damaged, which is reported.

    Collective: yes.
    """
    before, initial = None, progress.init_from
    if progress.index > 1:
        stages = list(session.config.train.stages)
        before = checkpoint_at(session.run_dir, progress.index - 1, stages[progress.index - 2])
    elif initial is not None:
        before = initial.source
    if before is not None:
        if _is_lost(session, progress, before):
            return None
        install_checkpoint(session.model, before)
    return {
        name: tensor.detach().clone() for name, tensor in adapter_tensors(session.model).items()
    }


def _is_lost(session: Session, progress: RunProgress, before: Checkpoint) -> bool:
    """Return whether the checkpoint that a stage began at is gone, and tell it. Collective: yes."""

    def look() -> str | None:
        if progress.index == 1 and progress.init_from is not None:
            return progress.init_from.defect()
        return checkpoint_defect(before)

    defect = session.world.on_main(look)
    if defect is not None:
        name = list(session.config.train.stages)[progress.index - 1]
        print(
            f"The drift of stage '{name}' is not logged any more: {before.folder}, where it "
            f"began, is not whole ({defect}).",
            file=sys.stderr,
        )
    (is_lost,) = session.world.max([float(defect is not None)])
    return is_lost > 0
