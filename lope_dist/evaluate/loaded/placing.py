"""Where the base is while a run answers: whole on each rank, or spread over all of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import psutil
import torch

from lope_dist.config.engine import EngineConfig
from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError, suggest
from lope_dist.core.memory import format_bytes
from lope_dist.engine.advice import USABLE
from lope_dist.engine.processes import local_size, num_ranks
from lope_dist.engine.world import World, calm_allocator, lack_of_memory_named, start_world
from lope_dist.evaluate.loaded.sizing import plan_evaluation
from lope_dist.evaluate.loaded.stopping import stopping_at_ctrl_c
from lope_dist.model.build import architecture, build_meta_model
from lope_dist.model.placement import Placement, Replicated

Base = Literal["auto", "whole", "sharded"]
_LESS_MEMORY = "give a smaller --batch-size, or --base sharded on more devices"


@dataclass(frozen=True)
class RankSettings:
    """How ranks answer together."""

    base: str = "auto"
    """`whole`: each rank holds the base. `sharded`: its part, and gathers a layer for its use.
    `auto`: whole where that fits on every rank."""
    timeout_s: float = 3600.0
    """How long ranks wait for one that does not start or hangs."""
    interface: str | None = None
    """Network interface that joins the hosts."""
    kept: str = ""
    """End of the sentence at Ctrl-C: what is on file so far."""


@contextmanager
def ranks(settings: RankSettings) -> Iterator[World | None]:
    """Context with the ranks that the launcher started; None for a process by itself.

    Collective: yes.

    Raises:
        LopeError: another word for the base than there are.
        PeerLost: another rank is gone; the sentence names it.
        Interrupted: Ctrl-C was pressed, in a process by itself; several ranks end at once.
    """
    if settings.base not in get_args(Base):
        raise LopeError(
            f"--base: '{settings.base}' is not known; allowed: {', '.join(get_args(Base))}."
            f"{suggest(settings.base, get_args(Base))}"
        )
    with stopping_at_ctrl_c(settings.kept):
        if num_ranks() == 1 and settings.base != "sharded":
            with lack_of_memory_named(_LESS_MEMORY):
                yield None
            return
        engine = EngineConfig(
            zero_stage=2, timeout_s=settings.timeout_s, interface=settings.interface
        )
        world = start_world(engine)
        with world.failures_named(_LESS_MEMORY):
            yield world
            world.close()


def placement_for(config: ModelConfig, base: str, world: World | None) -> Placement:
    """Return where the loader is to put the base's weights.

    The process gives freed memory of the host back from now on: on a CPU, batches of many lengths
    would otherwise leave more of it behind than the base takes.

    Collective: yes, with a ``world``.
    """
    calm_allocator()
    if world is None:
        assert base != "sharded", "a base is spread over ranks"
        return Replicated(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if base == "whole" or (base == "auto" and _fits_whole(config, world)):
        return Replicated(world.device)
    from lope_dist.engine.zero_placement import ZeroPlacement

    return ZeroPlacement(world, EngineConfig())


def _fits_whole(config: ModelConfig, world: World) -> bool:
    """Return whether the base fits whole on every rank; says so if not. Collective: yes."""
    if world.size == 1:
        return True
    plan = plan_evaluation(build_meta_model(config, architecture(config)), world.size)
    free = free_bytes(world.device)
    (too_small,) = world.max([float(plan.base_for(free) != "whole")])
    (least,) = world.max([-USABLE * free])
    if too_small and world.is_main:
        print(
            f"The base is spread over the {world.size} ranks: whole, answering takes "
            f"{format_bytes(plan.whole)} of each, and {format_bytes(int(-least))} are free on one; "
            f"spread, {format_bytes(plan.sharded)}.",
            file=sys.stderr,
        )
    return not too_small


def free_bytes(device: torch.device) -> int:
    """Return the memory that this rank may take of what is free now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available // local_size()
