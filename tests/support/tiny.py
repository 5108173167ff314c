"""A byte tokenizer and the configuration that the tests train with."""

from __future__ import annotations

from pathlib import Path


def save_byte_tokenizer(folder: Path) -> None:
    """Write a tokenizer whose tokens are bytes, plus `<eos>` and `<pad>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*alphabet, "<eos>", "<pad>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(folder)


def tiny_tree(model: Path, data: Path, output: Path) -> dict:
    """Return the configuration tree that the tests train with."""
    return {
        "output_dir": str(output),
        "model": {"name_or_path": str(model), "dtype": "float32"},
        "adapter": {"rank": 4, "dropout": 0.1},
        "data": {"path": str(data), "max_length": 256},
        "train": {
            "global_batch": 8,
            "micro_batch": 2,
            "stages": {
                "poison": {"noise": "hybrid", "trainable": ["shared_a", "poison_b"], "lr": 0.01},
                "finetune": {
                    "trainable": ["shared_a", "normal_b", "router"],
                    "lr": 0.01,
                    "weight_decay": 0.01,
                    "groups": {"router": {"lr": 0.003, "weight_decay": 0.0}},
                },
            },
        },
        "engine": {"kind": "local", "timeout_s": 60},
    }
