"""Our settings -> DeepSpeed's configuration dictionary."""

from __future__ import annotations

from typing import Any

import torch

from lope_dist.config.engine import EngineConfig


def build_ds_config(
    engine: EngineConfig,
    *,
    micro_batch: int,
    world_size: int,
    max_grad_norm: float,
    largest_adapter_numel: int,
) -> dict[str, Any]:
    """Return the dictionary for `deepspeed.initialize`.

    Neither fp16 nor bf16 is enabled: the frozen base keeps the dtype it was loaded in and
    the adapters their float32, which is what QLoRA does and what the optimizer steps.

    ``largest_adapter_numel`` keeps adapters resident under ZeRO-3, so that a layer costs
    one gather, not one for each of its adapter's parameters.
    """
    zero: dict[str, Any] = {
        "stage": engine.zero_stage,
        "reduce_bucket_size": engine.reduce_bucket_numel,
        "contiguous_gradients": True,
        "overlap_comm": False,
    }
    if engine.zero_stage == 3:
        zero |= {
            "stage3_param_persistence_threshold": largest_adapter_numel,
            "stage3_prefetch_bucket_size": engine.prefetch_bucket_numel,
            # Its prefetcher gathers another bucket ahead at every module and keeps what it
            # finds gathered: without this bound it ends with the whole model.
            "stage3_max_live_parameters": engine.prefetch_bucket_numel,
            # Otherwise a small model's gathered weights are all kept for the backward pass.
            "stage3_max_reuse_distance": 0,
        }
    zero |= offload_settings(engine)
    return {
        # Accumulation is the loop's business: it tells the engine which micro-batch is last.
        "gradient_accumulation_steps": 1,
        "train_micro_batch_size_per_gpu": micro_batch,
        "train_batch_size": micro_batch * world_size,
        "gradient_clipping": max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
        # Otherwise it waits for the device before and after each forward pass.
        "timers": {"throughput": {"enabled": False}},
    }


def offload_settings(engine: EngineConfig) -> dict[str, Any]:
    """Return what tells DeepSpeed to keep things in host memory, page-locked if that helps."""
    host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    settings: dict[str, Any] = {}
    if engine.offloads_parameters:
        settings["offload_param"] = dict(host)
    if engine.offloads_optimizer:
        settings["offload_optimizer"] = dict(host)
    return settings
