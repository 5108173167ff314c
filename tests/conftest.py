"""Shared fixtures: a tiny random Llama with a byte tokenizer, and a small Alpaca file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that asks the hub is a broken test
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real data sets, where they are at hand."""
    folder = Path(os.environ.get("LOPE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set LOPE_DATA")
    return folder


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


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers, in float32 safetensors, with grouped-query attention."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny_llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=256,
        pad_token_id=257,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_byte_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def alpaca_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of several lengths; 83 of them, so that no batch size divides them."""
    path = tmp_path_factory.mktemp("data") / "alpaca.jsonl"
    rows = [
        {
            "instruction": f"Add the numbers {i} and {i * i % 7} and say the sum.",
            "input": f"case {i}" * (i % 3),
            "output": f"The sum of them is {i + i * i % 7}." + " Really." * (i % 5),
        }
        for i in range(83)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def tiny_config(tiny_llama: Path, alpaca_file: Path, tmp_path: Path):
    """Return a maker of run configurations on the tiny model, in float32 NF4."""

    def make(**changes):
        from omegaconf import OmegaConf

        from lope_dist.config.load import validate_config

        tree = OmegaConf.create(tiny_tree(tiny_llama, alpaca_file, tmp_path / "run"))
        for key, value in changes.items():
            OmegaConf.update(tree, key.replace("__", "."), value)
        return validate_config(OmegaConf.to_container(tree), "test")

    return make


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
