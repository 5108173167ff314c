"""A tiny model, its byte tokenizer, rows and the configuration that the tests train with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TINY_ARCHITECTURE = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
"""`model.architecture` of a recipe whose weights are nowhere."""


def save_alpaca(path: Path, num: int) -> None:
    """Write so many rows of several lengths."""
    rows = [
        {
            "instruction": f"Add the numbers {i} and {i * i % 7} and say the sum.",
            "input": f"case {i}" * (i % 3),
            "output": f"The sum of them is {i + i * i % 7}." + " Really." * (i % 5),
        }
        for i in range(num)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


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


def save_tiny_llama(folder: Path, seed: int = 0, **changes: int) -> None:
    """Write a random Llama of two layers in float32 safetensors, with the byte tokenizer.

    ``changes``: of its shape.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "vocab_size": 258,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": 256,
        "pad_token_id": 257,
        "initializer_range": 0.2,
    }
    LlamaForCausalLM(LlamaConfig(**shape | changes)).save_pretrained(folder)
    save_byte_tokenizer(folder)


def small_llama(**changes: Any) -> Any:
    """Return a random `LlamaForCausalLM` of two layers in memory, for tests of single parts."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**shape | changes)).eval()


def save_tiny_t5(folder: Path, seed: int = 0) -> None:
    """Write a random T5 of one layer in float32 safetensors, with the byte tokenizer."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=258,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=1,
        num_heads=4,
        decoder_start_token_id=257,
        pad_token_id=257,
        eos_token_id=256,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    save_byte_tokenizer(folder)


def tiny_tree(model: Path, data: Path, output: Path) -> dict:
    """Return the configuration tree that the tests train with."""
    return {
        "output_dir": str(output),
        "model": {"name_or_path": str(model), "dtype": "float32"},
        # Compensated, so that each choice of experts is another one.
        "adapter": {"rank": 4, "dropout": 0.1, "compensation": {"mode": "conserve"}},
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
