"""Whether base weights and tokenizer are still those that a run was started with.

Hashing 140 GB before each resume would cost minutes of one rank's reading, so the weights' hash is
of every tensor's name, dtype and shape and of samples of its bytes. Other weights (another
model, a revision, a further training, another dtype) differ in all of their bytes. A change of
a few bytes between the samples is not seen.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lope_dist.config.model import ModelConfig
from lope_dist.core.fingerprint import sample_ranges, tokenizer_hash
from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.model.source import model_folder

_SAMPLES, _SAMPLE_BYTES = 8, 4096
_SAYS_NOTHING = ("transformers_version", "_name_or_path")  # of what the model computes


def fingerprints(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return a hash each of `base weights`, `architecture` and `tokenizer`."""
    folder = model_folder(config)
    files = TensorFiles(folder)
    try:
        weights = _weights_hash(files)
    finally:
        files.close()
    return {
        "base weights": weights,
        "architecture": _architecture_hash(folder),
        "tokenizer": _hash([tokenizer_hash(tokenizer), tokenizer.chat_template]),
    }


def _weights_hash(files: TensorFiles) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(files.names()):
        shape, dtype = files.shape(name), files.dtype(name)
        size = dtype.itemsize * math.prod(shape)
        digest.update(json.dumps([name, str(dtype), list(shape)]).encode())
        for start, stop in sample_ranges(size, _SAMPLES, _SAMPLE_BYTES):
            digest.update(files.read_bytes(name, start, stop).numpy().tobytes())
    return digest.hexdigest()


def _architecture_hash(folder: Path) -> str:
    values = json.loads((folder / "config.json").read_text())
    return _hash({key: value for key, value in values.items() if key not in _SAYS_NOTHING})


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
