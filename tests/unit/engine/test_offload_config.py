import pytest
import torch
from deepspeed.runtime.config import DeepSpeedConfig

from lope_dist.config.engine import EngineConfig
from lope_dist.engine.ds_config import build_ds_config


def _as_deepspeed_reads_it(**settings):
    tree = build_ds_config(
        EngineConfig(**settings),
        micro_batch=2,
        world_size=1,
        max_grad_norm=1.0,
        largest_adapter_numel=1000,
    )
    return DeepSpeedConfig(tree).zero_config


@pytest.mark.parametrize(
    ("offload", "parameters", "optimizer"),
    [
        ("none", False, False),
        ("parameters", True, False),
        ("optimizer", False, True),
        ("both", True, True),
    ],
)
def test_offload_reaches_deepspeed(offload: str, parameters: bool, optimizer: bool) -> None:
    zero = _as_deepspeed_reads_it(offload=offload)
    for found, wanted in ((zero.offload_param, parameters), (zero.offload_optimizer, optimizer)):
        assert (found is not None) == wanted
        if wanted:
            assert found.device == "cpu"
            assert found.pin_memory == torch.cuda.is_available()


def test_gathering_ahead_is_bounded() -> None:
    zero = _as_deepspeed_reads_it(prefetch_bucket_numel=7)
    assert (zero.prefetch_bucket_size, zero.max_live_parameters) == (7, 7)
    assert zero.max_reuse_distance == 0


def test_zero_2_offloads_the_optimizer_alone() -> None:
    assert _as_deepspeed_reads_it(zero_stage=2, offload="optimizer").offload_optimizer is not None
    for offload in ("parameters", "both"):
        with pytest.raises(ValueError, match=r"set engine\.zero_stage=3 or engine\.offload=opt"):
            EngineConfig(zero_stage=2, offload=offload)
    with pytest.raises(ValueError, match=r"engine\.kind=deepspeed"):
        EngineConfig(kind="local", offload="optimizer")
