from typing import Any

import pytest

from lope_dist.config.engine import EngineConfig
from lope_dist.engine.ds_config import build_ds_config


def build(**engine: Any) -> dict[str, Any]:
    return build_ds_config(
        EngineConfig.model_validate(engine),
        micro_batch=3,
        world_size=4,
        max_grad_norm=0.7,
        largest_adapter_numel=1234,
    )


@pytest.mark.parametrize("stage", [2, 3])
def test_batch_clipping_and_precision(stage: int) -> None:
    config = build(zero_stage=stage, reduce_bucket_numel=99)
    # The loop accumulates, so to DeepSpeed each micro-batch is a batch.
    assert config["gradient_accumulation_steps"] == 1
    assert config["train_micro_batch_size_per_gpu"] == 3
    assert config["train_batch_size"] == 12
    assert config["gradient_clipping"] == 0.7
    assert config["zero_optimization"]["stage"] == stage
    assert config["zero_optimization"]["reduce_bucket_size"] == 99
    # Either would cast the frozen base or keep second masters of the adapters.
    assert not {"fp16", "bf16", "amp", "torch_autocast"} & set(config)
    # Schedule and optimizer are ours; DeepSpeed's own would win over them.
    assert not {"scheduler", "optimizer"} & set(config)


def test_stage_3_keeps_the_largest_adapter_resident_and_no_more() -> None:
    zero = build(zero_stage=3, prefetch_bucket_numel=77)["zero_optimization"]
    assert zero["stage3_param_persistence_threshold"] == 1234
    assert zero["stage3_prefetch_bucket_size"] == 77
    assert zero["stage3_max_reuse_distance"] == 0


def test_stage_2_has_no_settings_of_stage_3() -> None:
    assert not [key for key in build(zero_stage=2)["zero_optimization"] if key.startswith("stage3")]


def test_deepspeed_takes_every_key() -> None:
    """A misspelt key would be ignored silently."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    zero = build(zero_stage=3)["zero_optimization"]
    fields = DeepSpeedZeroConfig.model_fields
    known = set(fields) | {field.alias for field in fields.values()}
    assert set(zero) <= known
    parsed = DeepSpeedZeroConfig(**zero)
    assert parsed.param_persistence_threshold == 1234
    assert parsed.max_reuse_distance == 0
