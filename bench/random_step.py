"""Training steps on random tokens, without a data set: LoPE, and peft's LoRA as its peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from random_nf4 import random_bitsandbytes, random_model

from lope_dist.adapters.batch import BatchDescription
from lope_dist.adapters.context import AdapterContext
from lope_dist.adapters.inject import inject, set_trainable
from lope_dist.adapters.lope import model_roles
from lope_dist.config.adapter import AdapterConfig
from lope_dist.config.train import OptimizerConfig, StageConfig, default_stages
from lope_dist.core.seeds import token_keys
from lope_dist.engine.groups import build_groups
from lope_dist.engine.local import LocalEngine
from lope_dist.model.loss_head import loss_head
from lope_dist.model.mask_reads import needs_masks, without_reading
from lope_dist.train.objective import summed_loss, targets_of

TARGETS = ("q_proj", "v_proj")


def random_ids(rows: int, length: int, vocabulary: int) -> torch.Tensor:
    """Return (rows, length) tokens on the host."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(2, vocabulary, (rows, length), generator=generator)


def packed_positions(rows: int, length: int, example: int = 512) -> torch.Tensor:
    """Return positions that start again at every example, as the packing does."""
    return (torch.arange(length) % min(example, length)).expand(rows, length)


class LopeStep:
    """LoPE on random NF4 weights and the local engine."""

    def __init__(
        self,
        shape: str,
        device: torch.device,
        adapter: AdapterConfig,
        checkpointing: bool = False,
        targets: tuple[str, ...] = TARGETS,
    ) -> None:
        self.device = device
        self.model = random_model(shape, device, checkpointing)
        self.context: AdapterContext = inject(
            self.model, adapter, targets=targets, stream_of=lambda name: "decoder", seed=0
        )
        stage: StageConfig = default_stages(adapter.num_normal, adapter.num_poison)["finetune"]
        set_trainable(self.model, stage.trainable)
        groups = build_groups(self.model, model_roles(self.model), stage)
        self.engine = LocalEngine(self.model, groups, OptimizerConfig())
        self.head = loss_head(self.model)

    def train(self, ids: torch.Tensor, positions: torch.Tensor) -> Callable[[], None]:
        """Return one step: forward, loss, backward, optimizer."""
        self.model.train()
        rows, length = ids.shape
        keys = [torch.from_numpy(token_keys(0, "bench", 0, row, length)) for row in range(rows)]
        mask = torch.ones_like(ids).to(self.device)
        keys_NT = torch.stack(keys).to(self.device)
        self.context.begin_batch(BatchDescription({"decoder": keys_NT}, mask))
        inputs = {"input_ids": ids.to(self.device), "position_ids": positions.to(self.device)}
        targets = targets_of(ids, shift=True)
        makes_masks = needs_masks({"position_ids": positions})

        def step() -> None:
            with without_reading(makes_masks):
                loss = summed_loss(
                    lambda: self.engine.forward(inputs), self.head, targets, self.device
                )
            self.engine.backward(loss / ids.numel(), is_last=True)
            self.engine.step(1.0)

        return step

    def answer(self, ids: torch.Tensor, answer: Any) -> Callable[[], None]:
        """Return one forward pass without gradients; ``answer`` as `answering` takes it."""
        self.model.eval()
        inputs = {"input_ids": ids.to(self.device)}

        @torch.no_grad()
        def step() -> None:
            with self.context.answering(answer):
                self.model(**inputs, use_cache=False, logits_to_keep=1)

        return step


class PeftStep:
    """peft's LoRA on bitsandbytes' layers, a plain loop around it."""

    def __init__(
        self,
        shape: str,
        device: torch.device,
        rank: int,
        checkpointing: bool = False,
        targets: tuple[str, ...] = TARGETS,
    ) -> None:
        self.device = device
        base = random_bitsandbytes(shape, device)
        if checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": True})
            base.enable_input_require_grads()
        config = LoraConfig(r=rank, lora_alpha=32, lora_dropout=0.05, target_modules=list(targets))
        self.model: Any = get_peft_model(base, config)
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad], lr=2e-4
        )

    def train(self, ids: torch.Tensor, positions: torch.Tensor) -> Callable[[], None]:
        """Return one step."""
        self.model.train()
        inputs = {"input_ids": ids.to(self.device), "position_ids": positions.to(self.device)}

        def step() -> None:
            output = self.model(**inputs, labels=inputs["input_ids"], use_cache=False)
            output.loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

        return step
