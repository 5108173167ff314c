"""Peak memory and time of a sharded NF4 load, beside transformers + DeepSpeed.

Each rank is a process with one thread; every figure is above the bare process (imports done,
process group up) and of the worst rank. It is written to `bench/results` too. The last line is
one JSON object; its `ratios`:

    peak_2_over_1        anonymous memory over load and initialize, 2 ranks by 1   target <= 0.65
    peak_4_over_1                                                                         <= 0.40
    peak_2_over_stock_2  the same by transformers' NF4 + DeepSpeed's ZeRO-3               <= 0.60
    rss_2_over_stock_2   resident memory, mapped files included                           <= 0.30
    time_over_stock      wall time of load and initialize, 2 ranks                        <= 1.00
    step_2_over_stock_2  anonymous memory over the first two training steps               <= 0.80

and of a shape too large for a peer on the same machine, one step of 16 tokens:

    load_over_planned    anonymous memory over load and initialize, by `lope plan`'s
    step_over_planned    the same over the step

Run: python bench/sharded_load.py [--workdir DIR]            1.2 B parameters, about 8 minutes
     python bench/sharded_load.py --shape llama2-7b --ranks 2   8 minutes, 13.5 GB of disk
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
TARGETS = {
    "peak_2_over_1": "<= 0.65",
    "peak_4_over_1": "<= 0.40",
    "peak_2_over_stock_2": "<= 0.60",
    "rss_2_over_stock_2": "<= 0.30",
    "time_over_stock": "<= 1",
    "step_2_over_stock_2": "<= 0.80",
}
MIB = 1 << 20
COMPARED = "llama-1.2b"


def measure(
    kind: str, model: Path, num_ranks: int, num_tokens: int, num_steps: int
) -> dict[str, Any]:
    """Start the ranks of one measurement and return the worst rank's figures."""
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
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")])
        ),
    }
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(HERE / "sharded_load_rank.py")]
        command += [kind, str(model), out, str(num_tokens), str(num_steps)]
        logs = [Path(out, f"{rank}.log") for rank in range(num_ranks)]
        ranks = []
        for rank, log in enumerate(logs):
            own = common | {"RANK": rank, "LOCAL_RANK": rank}
            environment = os.environ | {key: str(value) for key, value in own.items()}
            with log.open("w") as file:
                ranks.append(subprocess.Popen(command, env=environment, stdout=file, stderr=file))
        statuses = [process.wait() for process in ranks]
        for rank, status in enumerate(statuses):
            if status:
                tail = logs[rank].read_text()[-4000:]
                sys.exit(f"{kind}: rank {rank} of {num_ranks} ended with {status}:\n{tail}")
        facts = [json.loads(Path(out, f"{rank}.json").read_text()) for rank in range(num_ranks)]
    worst = {key: max(fact[key] for fact in facts) for key in facts[0] if key != "losses"}
    result = {
        key.replace("_anon", "_anon_mib").replace("_rss", "_rss_mib"): round(
            value if key.endswith("_s") else value / MIB, 1
        )
        for key, value in worst.items()
    }
    print(f"{kind} x{num_ranks}: {result}", flush=True)
    return result | {"losses": facts[0]["losses"]}


def compare(model: Path, num_tokens: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure ours on 1, 2 and 4 ranks and stock on 2; return ratios and figures."""
    found = {f"ours_{n}": measure("ours", model, n, num_tokens, 2) for n in (1, 2, 4)}
    found["stock_2"] = measure("stock", model, 2, num_tokens, 2)
    one, two, four, stock = found.values()
    ratios = {
        "peak_2_over_1": two["load_anon_mib"] / one["load_anon_mib"],
        "peak_4_over_1": four["load_anon_mib"] / one["load_anon_mib"],
        "peak_2_over_stock_2": two["load_anon_mib"] / stock["load_anon_mib"],
        "rss_2_over_stock_2": two["load_rss_mib"] / stock["load_rss_mib"],
        "time_over_stock": two["load_s"] / stock["load_s"],
        "step_2_over_stock_2": two["step_anon_mib"] / stock["step_anon_mib"],
    }
    return ratios, {"measured": found}


def beside_plan(
    model: Path, shape: str, num_ranks: int, num_tokens: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure ours alone, beside `lope plan`; return ratios and figures."""
    facts = measure("ours", model, num_ranks, num_tokens, 1)
    plan = planned(shape, num_ranks, num_tokens)
    ratios = {
        "load_over_planned": facts["load_anon_mib"] / plan["load_mib"],
        "step_over_planned": facts["step_anon_mib"] / plan["step_mib"],
    }
    return ratios, {"measured": {f"ours_{num_ranks}": facts}, "planned": plan}


def planned(shape: str, num_ranks: int, num_tokens: int) -> dict[str, float]:
    """Return what `lope plan` says of the same run: MiB a rank, load and step."""
    from sharded_load_rank import CONFIG

    from lope_dist.config.load import validate_config
    from lope_dist.train.premises.sizing import plan_run

    architecture = {"model_type": "llama", "vocab_size": 32000, **SHAPES[shape]}
    tree = CONFIG | {
        "model": {"name_or_path": shape, "architecture": architecture},
        "data": CONFIG["data"] | {"max_length": num_tokens},
    }
    plan = plan_run(
        validate_config(tree, "bench"),
        world_size=num_ranks,
        gpu_memory=80 << 30,
        node_memory=None,
        ranks_per_node=num_ranks,
    )["zero3"]
    return {
        "load_mib": round(plan["load_peak"] / MIB, 1),
        "step_mib": round(plan["total"] / MIB, 1),
    }


def main() -> None:
    """Run the benchmark."""
    parser = command(__doc__)
    parser.add_argument("--workdir", type=Path, help="where the checkpoint is kept for next time")
    parser.add_argument("--shape", choices=list(SHAPES), default=COMPARED)
    parser.add_argument("--ranks", type=int, default=2, help="of a shape other than the default")
    parser.add_argument("--tokens", type=int, help="of a batch; default 128, 16 beside the plan")
    arguments = parser.parse_args()
    shape = arguments.shape
    with tempfile.TemporaryDirectory() as temporary:
        model = write_checkpoint(shape, arguments.workdir or Path(temporary))
        if shape == COMPARED:
            name, (ratios, figures) = "sharded_load", compare(model, arguments.tokens or 128)
        else:
            name = f"sharded_load_{shape.replace('-', '_')}"
            tokens = arguments.tokens or 16
            ratios, figures = beside_plan(model, shape, arguments.ranks, tokens)
    targets = {key: target for key, target in TARGETS.items() if key in ratios}
    finish(name, ratios, targets, figures, vars(arguments))


if __name__ == "__main__":
    main()
