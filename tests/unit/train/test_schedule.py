from typing import Any

import pytest

from lope_dist.config.train import StageConfig
from lope_dist.train.stage.schedule import lr_factor

SCHEDULES = ("constant", "linear", "cosine")


def factors(num_steps: int, **settings: Any) -> list[float]:
    stage = StageConfig.model_validate({"trainable": ["shared_a"], **settings})
    return [lr_factor(stage, step, num_steps) for step in range(num_steps)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_rises_evenly_and_never_starts_at_zero(schedule: str) -> None:
    rising = factors(100, schedule=schedule, warmup_ratio=0.035)  # 3.5 steps are 4
    assert rising[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert max(rising) == 1.0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_step_trains_even_a_single_one(schedule: str) -> None:
    assert factors(1, schedule=schedule, warmup_ratio=0.0) == [1.0]
    for ratio in (0.0, 0.03, 1.0):
        assert all(0 < f <= 1 for f in factors(40, schedule=schedule, warmup_ratio=ratio))


def test_constant_stays_at_its_peak() -> None:
    assert factors(50, schedule="constant", warmup_ratio=0.0) == [1.0] * 50


def test_linear_falls_evenly_to_just_above_zero() -> None:
    assert factors(4, schedule="linear", warmup_ratio=0.0) == pytest.approx([1, 0.75, 0.5, 0.25])


def test_cosine_is_half_way_down_in_the_middle() -> None:
    falling = factors(100, schedule="cosine", warmup_ratio=0.0)
    assert falling[0] == 1.0
    assert falling[50] == pytest.approx(0.5)
    assert falling[25] == pytest.approx(0.5 + 0.5 * 0.5**0.5)
    assert falling[-1] < 1e-3
    assert falling == sorted(falling, reverse=True)


def test_a_step_does_not_depend_on_the_steps_asked_before() -> None:
    stage = StageConfig.model_validate({"trainable": ["shared_a"], "warmup_ratio": 0.1})
    forward = [lr_factor(stage, step, 30) for step in range(30)]
    assert [lr_factor(stage, step, 30) for step in reversed(range(30))] == forward[::-1]
