"""The device of these tests. `make test-gpu` runs them; elsewhere they are skipped."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    """A GPU, or the test is skipped."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device (or hidden: run `make test-gpu`)")
    torch.manual_seed(0)
    return torch.device("cuda")
