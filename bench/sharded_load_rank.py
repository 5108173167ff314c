"""One rank of `sharded_load.py`: load, initialize, train two steps; write what it took.

`sharded_load_rank.py ours|stock MODEL OUT TOKENS STEPS`, started once a rank.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import peft  # here, not where it is used: the bare process of both sides has all imports
import torch
import torch.nn.functional as F
from process_memory import Peak, now
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lope_dist.adapters.inject import set_trainable
from lope_dist.adapters.lope import model_roles
from lope_dist.config.load import validate_config
from lope_dist.core.roles import Role
from lope_dist.engine.ds_config import build_ds_config
from lope_dist.engine.groups import build_groups
from lope_dist.engine.world import World, start_world
from lope_dist.engine.zero import ZeroEngine
from lope_dist.engine.zero_placement import ZeroPlacement
from lope_dist.model.build import load_model
from lope_dist.model.families import family_of
from lope_dist.train.premises.preflight import adapt

ROLES = (Role.SHARED_A, Role.NORMAL_B, Role.POISON_B, Role.ROUTER)
CONFIG = {
    "output_dir": "unused",
    "adapter": {"targets": ["q_proj", "v_proj"], "dropout": 0.0},
    "data": {"path": "unused.jsonl"},
    "train": {"global_batch": 4, "micro_batch": 1},
    "engine": {
        "zero_stage": 3,
        "prefetch_bucket_numel": 10_000_000,
    },
}


class Ours:
    """This project's loader and engine: LoPE, 3 + 1 experts of rank 4."""

    def __init__(self, model_dir: str, world: World) -> None:
        tree = CONFIG | {"model": {"name_or_path": model_dir}}
        config = validate_config(tree, "bench")
        model = load_model(config.model, ZeroPlacement(world, config.engine), progress=False)
        adapt(model, config, family_of(model))
        stage = config.train.stages["finetune"].model_copy(update={"trainable": ROLES})
        set_trainable(model, ROLES)
        groups = build_groups(model, model_roles(model), stage)
        model.train()
        self._engine = ZeroEngine(model, groups, config.train.optimizer, config.engine, world, 1)

    def step(self, ids: torch.Tensor) -> float:
        """Train on one batch and return its loss."""
        loss = _loss(self._engine.forward({"input_ids": ids}).logits, ids)
        self._engine.backward(loss, is_last=True)
        self._engine.step(1.0)
        return float(loss)


class Stock:
    """Transformers' NF4 load, peft's LoRA of rank 16 and DeepSpeed, with our ZeRO settings."""

    def __init__(self, model_dir: str, world: World) -> None:
        import deepspeed

        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_quant_storage=torch.bfloat16,
        )
        model = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=torch.bfloat16, quantization_config=settings
        )
        lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"])
        model = peft.get_peft_model(model, lora)
        model.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        config = validate_config(CONFIG | {"model": {"name_or_path": model_dir}}, "bench")
        self._engine: Any
        self._engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=torch.optim.AdamW(trained, lr=2e-4),
            config=build_ds_config(
                config.engine,
                micro_batch=1,
                world_size=world.size,
                max_grad_norm=1.0,
                largest_adapter_numel=max(p.numel() for p in trained),
            ),
            dist_init_required=False,
        )

    def step(self, ids: torch.Tensor) -> float:
        """Train on one batch and return its loss."""
        loss = _loss(self._engine(input_ids=ids, use_cache=False).logits, ids)
        self._engine.backward(loss)
        self._engine.step()
        return float(loss)


def _loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[0, :-1].float(), ids[0, 1:])


def main() -> None:
    """Measure one rank."""
    kind, model_dir, out, num_tokens, num_steps = sys.argv[1:]
    config = validate_config(CONFIG | {"model": {"name_or_path": model_dir}}, "bench")
    world = start_world(config.engine)
    ZeroPlacement(world, config.engine)  # imports what deepspeed imports late
    gc.collect()
    world.barrier()
    base = now()
    with Peak(base) as load:
        start = time.monotonic()
        trainer = (Ours if kind == "ours" else Stock)(model_dir, world)
        world.barrier()
        load_s = time.monotonic() - start
    gc.collect()
    settled = now()
    ids = torch.arange(int(num_tokens)).view(1, -1) * 7 % 32000 + world.rank
    with Peak(base) as steps:
        start = time.monotonic()
        losses = [trainer.step(ids) for _ in range(int(num_steps))]
        step_s = (time.monotonic() - start) / int(num_steps)
    facts = {
        "base_anon": base["anon"],
        "base_rss": base["rss"],
        "load_anon": load.anon,
        "load_rss": load.rss,
        "after_load_anon": settled["anon"] - base["anon"],
        "step_anon": steps.anon,
        "step_rss": steps.rss,
        "load_s": load_s,
        "step_s": step_s,
        "losses": losses,
    }
    Path(out, f"{world.rank}.json").write_text(json.dumps(facts))
    world.close()


if __name__ == "__main__":
    main()
