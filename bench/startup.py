"""How long the command takes until it says something.

The last line is one JSON object; its `ratios` are seconds over what is allowed:

    help_over_half_a_second      `lope --help`                      target <= 1
    config_error_over_a_second   `lope check` of a misspelt recipe   target <= 1

Run: python bench/startup.py [--repeats 5]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import command, finish, in_turn

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-c", "from lope_dist.cli import main; main()"]


def main() -> None:
    """Print the figures."""
    parser = command(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path}

    def run(status: int, *words: str) -> None:
        ended = subprocess.run(
            [*COMMAND, *words], env=environment, capture_output=True, check=False
        )
        assert ended.returncode == status, ended.stderr

    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text("output_dir: x\nmodell: {name_or_path: x}\n")
        times = in_turn(
            {
                "help": lambda: run(0, "--help"),
                "config_error": lambda: run(2, "check", str(recipe)),
            },
            arguments.repeats,
        )
    seconds = {name: statistics.median(values) for name, values in times.items()}
    finish(
        "startup",
        {
            "help_over_half_a_second": seconds["help"] / 0.5,
            "config_error_over_a_second": seconds["config_error"],
        },
        {"help_over_half_a_second": "<= 1", "config_error_over_a_second": "<= 1"},
        {f"{name}_s": round(value, 3) for name, value in seconds.items()},
        vars(arguments),
    )


if __name__ == "__main__":
    main()
