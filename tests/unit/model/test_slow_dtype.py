"""A precision that the device only emulates is named; it is measured, not looked up."""

from __future__ import annotations

import pytest
import torch

from lope_dist.model import slow_dtype
from lope_dist.model.slow_dtype import slow_dtype_sentence, tell_slow_dtype

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch) -> dict[torch.dtype, float]:
    """Return the seconds that a product takes by dtype; no real clock could be relied on."""
    seconds = {torch.float32: 0.001}
    now = [0.0]
    multiply = torch.mm

    def timed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        now[0] += seconds[a.dtype]
        return multiply(a, b)

    monkeypatch.setattr(torch, "mm", timed)
    monkeypatch.setattr(slow_dtype.time, "perf_counter", lambda: now[0])
    return seconds


def test_what_is_emulated_is_named_with_its_cost(clock, capsys) -> None:
    clock[torch.bfloat16] = 0.06
    assert "bfloat16 60 times slower" in (slow_dtype_sentence("bfloat16", CPU) or "")
    tell_slow_dtype("bfloat16", CPU)
    printed = capsys.readouterr()
    assert "model.dtype=float32" in printed.err
    assert not printed.out, "--json has stdout to itself"


@pytest.mark.parametrize("seconds", [0.0005, 0.0015])
def test_nothing_is_said_of_units_that_are_there(clock, capsys, seconds) -> None:
    clock[torch.bfloat16] = seconds
    assert slow_dtype_sentence("bfloat16", CPU) is None
    tell_slow_dtype("bfloat16", CPU)
    assert capsys.readouterr().err == ""


def test_float32_is_not_measured(clock) -> None:
    clock[torch.float32] = float("nan")
    assert slow_dtype_sentence("float32", CPU) is None
