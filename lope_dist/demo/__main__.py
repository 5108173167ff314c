"""`python -m lope_dist.demo DIR`: write the quickstart's train.jsonl and test.jsonl."""

from __future__ import annotations

import sys
from pathlib import Path

from lope_dist.demo.corpus import write_demo

NUM_TRAIN = 3000
NUM_TEST_PER_FAMILY = 12
SEED = 614

if __name__ == "__main__":
    write_demo(Path(sys.argv[1]), SEED, NUM_TRAIN, NUM_TEST_PER_FAMILY)
