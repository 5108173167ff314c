"""What a parameter is for. Freezing, optimizer groups, masking and export speak roles."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """Role of a parameter in a LoPE model (paper, section 3.1)."""

    BASE = "base"
    """Pretrained weights; never trained, never written to a checkpoint."""
    SHARED_A = "shared_a"
    """The down-projection A that all experts share."""
    NORMAL_B = "normal_b"
    """Expert matrices B_i that serve at inference."""
    POISON_B = "poison_b"
    """Expert matrices B_D that absorb the injected noise and are masked at inference."""
    ROUTER = "router"
    """Gate that weighs the experts, per token."""
    ADAPTER = "adapter"
    """All that a baseline of another kind adds (AdaLoRA, P-Tuning, prefix tuning)."""


ADAPTER_ROLES = (Role.SHARED_A, Role.NORMAL_B, Role.POISON_B, Role.ROUTER, Role.ADAPTER)
