"""Train on many ranks: `deepspeed launch/train.py --config CONFIG [KEY=VALUE]...`.

Works the same under `torchrun launch/train.py ...` and, on one rank, under plain python.
Every rank runs this file; rank 0 prints, logs and writes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lope_dist.config.load import load_config
from lope_dist.core.errors import LopeError
from lope_dist.core.exits import fail


def main() -> None:
    """Parse the launcher's arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="YAML recipe")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="last",
        choices=("last", "auto"),
        help="go on from the last checkpoint; auto: if there is a run already, else start it",
    )
    parser.add_argument("--local_rank", type=int, help="set by some launchers; not used")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="dotted overrides")
    arguments = parser.parse_args()
    try:
        config = load_config(arguments.config, arguments.overrides)
        from lope_dist.train.session import train

        has_run = (Path(config.output_dir) / "run.yaml").exists()
        train(config, resume=arguments.resume == "last" or (arguments.resume == "auto" and has_run))
    except LopeError as error:
        fail(error)


if __name__ == "__main__":
    main()
