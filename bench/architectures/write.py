"""An architecture's tiny model, written with a tokenizer of bytes."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from architectures import ARCHITECTURES

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>")


def write_model(name: str, folder: Path) -> None:
    """Write a tiny random model with a tokenizer of bytes."""
    case = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(case.model_type, **case.sizes)
    model = getattr(transformers, case.auto).from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases that are not plainly one or zero
                parameter.add_(0.1 * torch.randn_like(parameter))
        for buffer in _buffers_in_file(model):
            buffer.add_(0.1 * torch.rand_like(buffer))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def byte_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are bytes behind `<pad>`, `<bos>` and `<eos>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    pad, begin, end = SPECIAL_TOKENS
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=begin, eos_token=end
    )


def _buffers_in_file(model: torch.nn.Module) -> list[torch.Tensor]:
    written = model.state_dict()
    return [b for name, b in model.named_buffers() if name in written and b.is_floating_point()]
