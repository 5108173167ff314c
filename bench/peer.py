"""The end-to-end peer: Hugging Face Trainer with peft's LoRA on bitsandbytes' NF4."""

from __future__ import annotations

import time
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


class Rows(Dataset):
    """Rows of token ids, all of one length."""

    def __init__(self, ids: list[torch.Tensor], labels: list[torch.Tensor]) -> None:
        self._rows = [{"input_ids": i, "labels": k} for i, k in zip(ids, labels, strict=True)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self._rows[index]


def load_base(
    folder: str, dtype: torch.dtype = torch.bfloat16, nested: bool = True, device: str = "cpu"
) -> Any:
    """Return the model in NF4, its scales quantized too if ``nested``."""
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=nested,
        bnb_4bit_compute_dtype=dtype,
    )
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, quantization_config=settings, device_map={"": device}
    )


def load_peer(folder: str, rank: int, dropout: float, device: str = "cpu") -> Any:
    """Return the NF4 model with peft's LoRA on the query and value projections."""
    model = load_base(folder, device=device)
    lora = LoraConfig(
        r=rank,
        lora_alpha=32,
        lora_dropout=dropout,
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


class _Clock(TrainerCallback):
    """From the first step's begin to the last one's end: the Trainer's own start is left out."""

    def __init__(self) -> None:
        self.start = self.seconds = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the first begin."""
        self.start = self.start or time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the last end."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.start


def train_peer(model: Any, rows: Dataset, batch: int, steps: int, out: str, **more: Any) -> float:
    """Train through the Trainer and return the seconds of the steps."""
    clock = _Clock()
    arguments = TrainingArguments(
        output_dir=out,
        per_device_train_batch_size=batch,
        max_steps=steps,
        learning_rate=2e-4,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        **more,
    )
    Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[clock]).train()
    return clock.seconds
