"""The demo's held-out questions as lm-eval documents, clean or corrupted.

lm-eval calls `load` through `custom_dataset` with the task's metadata and `dataset_kwargs`.
The questions are `test.jsonl` of the folder that the environment variable LOPE_DEMO_DATA
names (default `runs/quickstart/data`), written by `lope_dist.demo.corpus.write_demo`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from lope_dist.config.noise import TextNoiseConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.tokens.prompts import alpaca_prompt
from lope_dist.noise.mix import corrupt, example_keys

_VARIABLE = "LOPE_DEMO_DATA"
_DEFAULT = "runs/quickstart/data"
_NOISE_SEED = 614  # fixed: the noisy questions are the same for every run that is scored


def load(family: str, noise_rate: float = 0.0, **_metadata: Any) -> DatasetDict:
    """Return one family's test questions with their prompts.

    With ``noise_rate`` that share of the words of instruction and input is corrupted; the
    template around them and the choices never are.

    Raises:
        LopeError: the demo's data or the family is not there.
    """
    path = Path(os.environ.get(_VARIABLE, _DEFAULT)) / "test.jsonl"
    if not path.is_file():
        raise LopeError(
            f"The demo's questions '{path}' do not exist; run `make run`, or set {_VARIABLE} to "
            "the folder that holds test.jsonl."
        )
    noise = TextNoiseConfig(rate=noise_rate)
    documents = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        if row["family"] != family:
            continue
        key = example_keys(_NOISE_SEED, "demo test noise", 0, [number])
        fields = [row["instruction"], row["input"]]
        instruction, context = corrupt(fields, [0, 0], [0, 1], key, noise).texts
        documents.append(row | {"prompt": alpaca_prompt(instruction, context)})
    if not documents:
        raise LopeError(f"{path} has no question of the family '{family}'; write it anew.")
    return DatasetDict({"test": Dataset.from_list(documents)})
