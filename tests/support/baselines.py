"""The baselines of peft, tiny: `adapter` by name."""

from __future__ import annotations

from typing import Any

BASELINES: dict[str, dict[str, Any]] = {
    "adalora": {
        "kind": "adalora",
        "target_rank": 2,
        "initial_rank": 4,
        "dropout": 0.1,
        "allocate_every_steps": 2,
    },
    "p_tuning": {"kind": "p_tuning", "num_virtual_tokens": 5, "encoder_hidden_size": 16},
    "p_tuning_mlp": {"kind": "p_tuning", "num_virtual_tokens": 5, "encoder": "mlp"},
    "prefix_tuning": {"kind": "prefix_tuning", "num_virtual_tokens": 5},
}
