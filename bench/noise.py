"""Noise and tokenising against tokenising alone, on one core and in one process.

The paper's preset on rows of a corpus: `noise_and_tokenise_over_tokenise` (target <= 1.10) with
interleaved repeats and medians, and the throughput of each operation by itself. The last line is
one JSON object.

Run: python bench/noise.py [--data rows.jsonl] [--rows 2000] [--repeats 7] [--operations]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lope_dist.config.data import DataConfig
from lope_dist.config.model import ModelConfig
from lope_dist.config.noise import NoiseConfig, TextNoiseConfig
from lope_dist.corpus.records import open_source
from lope_dist.corpus.turns import Example
from lope_dist.corpus.views import stage_views
from lope_dist.demo.corpus import write_demo
from lope_dist.model.source import open_source as open_model
from lope_dist.noise.base import NOISE, ResponseOperation


def texts_of(examples: Sequence[Example]) -> list[str]:
    """Return all fields that a tokenizer reads."""
    return [s for e in examples for t in e.turns for s in (t.text, t.context) if s]
