"""Peak memory and time of an evaluation whose base is spread over the ranks, beside a whole one.

Log-likelihoods of the choices of real questions (ARC-easy and MMLU, from LOPE_DATA) under random
weights of a 1.2 B Llama in NF4 with a LoPE adapter, masked. Each rank is a process with one thread;
figures are anonymous memory above the bare process, of the worst rank. The last line is one JSON
object; its `ratios`:

    peak_2_over_whole   peak of load and answers, sharded over 2 ranks, by one that holds the base
    peak_4_over_whole   the same over 4 ranks
    equal               1: every answer is that of one process, bit for bit
    time_2_over_whole   answers over 2 ranks, sharded by whole on 2 ranks
    peak_over_planned   of a shape too large for a whole copy beside it: peak by `lope plan`'s

lm-eval's own way for a model that one device cannot hold, `parallelize=True`, splits layers over
accelerators and, on a CPU, holds everything in one process; there is nothing to measure it by here,
and the figures say so.

Run: python bench/sharded_eval.py [--workdir DIR]
     python bench/sharded_eval.py --shape llama2-7b --requests 64 --generate 16
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import command, finish
from random_llama import SHAPES, write_checkpoint

HERE = Path(__file__).resolve().parent
COMPARED = "llama-1.2b"
TARGETS = {"peak_2_over_whole": "<= 0.65", "peak_4_over_whole": "<= 0.40", "equal": ">= 1"}
MIB = 1 << 20
PEER = (
    "not measured: lm-eval's parallelize=True places layers on several accelerators and holds the "
    "whole base in one process where there is none; its HFLM refuses it for a model that is loaded."
)


def questions(count: int) -> list[list[str]]:
    """Return pairs of context and choice of real tasks."""
    import pandas

    folder = Path(os.environ.get("LOPE_DATA", HERE.parents[1] / "shared" / "data")) / "eval"
    pairs: list[list[str]] = []
    for task in ("arc_easy", "mmlu"):
        files = sorted((folder / task).rglob("*test*.parquet"))
        for row in pandas.concat(map(pandas.read_parquet, files)).to_dict("records"):
            choices = row["choices"]
            texts = choices["text"] if isinstance(choices, dict) else choices
            pairs += [[f"Question: {row['question']}\nAnswer:", f" {text}"] for text in texts]
            if len(pairs) % (count // 2 or 1) < len(texts) and len(pairs) >= count // 2:
                break
    return pairs[:count]


def measure(model: Path, base: str, num_ranks: int, asked: Path, generated: int) -> dict[str, Any]:
    """Start the ranks of one measurement; return the worst rank's figures and rank 0's answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "WORLD_SIZE": num_ranks,
        "LOCAL_WORLD_SIZE": num_ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": 1,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": 1,
        "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}",
    }
    with tempfile.TemporaryDirectory() as out:
        arguments = [str(model), base, str(asked), str(generated), out]
        line = [sys.executable, str(HERE / "sharded_eval_rank.py"), *arguments]
        logs = [Path(out, f"{rank}.log") for rank in range(num_ranks)]
        processes = []
        for rank, log in enumerate(logs):
            own = common | {"RANK": rank, "LOCAL_RANK": rank}
            environment = os.environ | {key: str(value) for key, value in own.items()}
            with log.open("w") as file:
                processes.append(subprocess.Popen(line, env=environment, stdout=file, stderr=file))
        for rank, process in enumerate(processes):
            if process.wait():
                tail = logs[rank].read_text()[-4000:]
                sys.exit(f"{base} x{num_ranks}: rank {rank} ended early:\n{tail}")
        facts = [json.loads(Path(out, f"{rank}.json").read_text()) for rank in range(num_ranks)]
    answers = {key: facts[0][key] for key in ("answers", "texts")}
    assert all(fact["answers"] == answers["answers"] for fact in facts)
    worst = {
        key: round(max(f[key] for f in facts) / (1 if key.endswith("_s") else MIB), 1)
        for key in facts[0]
        if key not in answers
    }
    print(f"{base} x{num_ranks}: {worst}", file=sys.stderr, flush=True)
    return worst | answers


def main() -> None:
    """Run the benchmark."""
    parser = command(__doc__)
    parser.add_argument("--workdir", type=Path, help="where the checkpoint is kept for next time")
    parser.add_argument("--shape", choices=list(SHAPES), default=COMPARED)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--generate", type=int, default=0, metavar="TOKENS")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        model = write_checkpoint(arguments.shape, arguments.workdir or Path(temporary))
        asked = Path(temporary, "requests.json")
        asked.write_text(json.dumps(questions(arguments.requests)))

        def run(base: str, num_ranks: int) -> dict[str, Any]:
            return measure(model, base, num_ranks, asked, arguments.generate)

        if arguments.shape == COMPARED:
            cells = [("whole", 1), ("whole", 2), ("sharded", 2), ("sharded", 4)]
            found = {f"{base}_{n}": run(base, n) for base, n in cells}
            whole = found["whole_1"]
            equal = all(cell["answers"] == whole["answers"] for cell in found.values())
            ratios = {
                "peak_2_over_whole": found["sharded_2"]["peak_anon"] / whole["peak_anon"],
                "peak_4_over_whole": found["sharded_4"]["peak_anon"] / whole["peak_anon"],
                "equal": float(equal),
                "time_2_over_whole": found["sharded_2"]["answer_s"] / found["whole_2"]["answer_s"],
            }
            name = "sharded_eval"
        else:
            found = {"sharded_2": run("sharded", 2)}
            cell = found["sharded_2"]
            ratios = {"peak_over_planned": cell["peak_anon"] / cell["planned"]}
            name = f"sharded_eval_{arguments.shape.replace('-', '_')}"
    cells_without = {
        key: {k: v for k, v in cell.items() if k not in ("answers", "texts")}
        for key, cell in found.items()
    }
    figures = {"measured": cells_without, "parallelize": PEER}
    targets = {key: target for key, target in TARGETS.items() if key in ratios}
    finish(name, ratios, targets, figures, vars(arguments))


if __name__ == "__main__":
    main()
