"""What Hugging Face's Trainer, PEFT and axolotl call a setting, and where it stands here."""

from __future__ import annotations

_STAGE = "train.stages.STAGE."

KEYS = {
    "adapter_name_or_path": "adapter.init_from",
    "attn_implementation": "model.attention",
    "base_model": "model.name_or_path",
    "cutoff_len": "data.max_length",
    "data_path": "data.path",
    "dataset": "data.path",
    "dataset_name": "data.path",
    "datasets": "data.path",
    "early_stopping_patience": "train.early_stopping.patience",
    "epochs": _STAGE + "epochs",
    "eval_steps": "train.evaluate.every_steps",
    "flash_attention": "model.attention",
    "gradient_checkpointing": "model.gradient_checkpointing",
    "learning_rate": _STAGE + "lr",
    "load_best_model_at_end": "train.keep_best",
    "logging_steps": "train.log_every_steps",
    "load_adapter": "adapter.init_from",
    "lora_dropout": "adapter.dropout",
    "lora_model_dir": "adapter.init_from",
    "lora_r": "adapter.rank",
    "lora_rank": "adapter.rank",
    "lora_target": "adapter.targets",
    "lora_target_modules": "adapter.targets",
    "lr": _STAGE + "lr",
    "lr_scheduler": _STAGE + "schedule",
    "lr_scheduler_type": _STAGE + "schedule",
    "max_grad_norm": "train.optimizer.max_grad_norm",
    "max_seq_length": "data.max_length",
    "max_steps": _STAGE + "max_steps",
    "metric_for_best_model": "train.keep_best",
    "micro_batch_size": "train.micro_batch",
    "model_id": "model.name_or_path",
    "model_name": "model.name_or_path",
    "model_name_or_path": "model.name_or_path",
    "num_epochs": _STAGE + "epochs",
    "num_train_epochs": _STAGE + "epochs",
    "per_device_train_batch_size": "train.micro_batch",
    "r": "adapter.rank",
    "report_to": "train.trackers",
    "run_name": "train.tracking.name",
    "sample_packing": "data.packing",
    "save_steps": "train.checkpoint.every_steps",
    "save_total_limit": "train.checkpoint.keep_last",
    "sequence_len": "data.max_length",
    "target_modules": "adapter.targets",
    "torch_dtype": "model.dtype",
    "train": "data.path",
    "train_file": "data.path",
    "val_set_size": "data.validation.share",
    "wandb_project": "train.tracking.project",
    "warmup_ratio": _STAGE + "warmup_ratio",
    "weight_decay": _STAGE + "weight_decay",
}
"""Their name -> our key."""

ADVICE = {
    "bf16": "The base computes in model.dtype, bfloat16 by default.",
    "deepspeed": "engine.zero_stage and engine.offload take the place of a DeepSpeed file.",
    "fp16": "The base computes in model.dtype, bfloat16 by default; float16 is not supported.",
    "gradient_accumulation_steps": "It follows from train.global_batch, train.micro_batch and the "
    "number of ranks.",
    "include": "It stands in files alone: put the override's layers into a recipe.",
    "load_in_4bit": "model.quantization: nf4 does that, and is the default.",
    "load_in_8bit": "Of quantized forms there is model.quantization: nf4.",
    "optim": "The optimizer is AdamW; train.optimizer has its settings.",
    "warmup_steps": f"Give their share of a stage's steps as {_STAGE}warmup_ratio.",
}
"""Their name -> what to do, where no single key takes its place."""


def advice_on(name: str) -> str | None:
    """Return what to do about a name of another tool; None if it is of none."""
    if name in ADVICE:
        return ADVICE[name]
    key = KEYS.get(name)
    if key is None:
        return None
    stages = " for each STAGE, by default poison and finetune" if _STAGE in key else ""
    return f"Here it is {key}{stages}."
