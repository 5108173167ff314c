"""Train on many ranks: `deepspeed launch/train.py --config CONFIG [KEY=VALUE]...`.

Works the same under `torchrun launch/train.py ...` and, on one rank, under plain python.
Every rank runs this file; rank 0 prints, logs and writes. Exit status 0: done; 2: an error,
told in one sentence; 75: stopped by SIGTERM or SIGUSR1 after a checkpoint, to be resumed.
"""

from __future__ import annotations

import argparse

from lope_dist.config.load import load_config, split_resume
from lope_dist.core.errors import LopeError, Preempted
from lope_dist.core.exits import end


def main() -> None:
    """Parse the launcher's arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="YAML recipe")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last whole checkpoint; --resume auto: or start anew if there is none",
    )
    parser.add_argument("--local_rank", type=int, help="set by some launchers; not used")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="dotted overrides")
    arguments = parser.parse_intermixed_args()
    try:
        resume, overrides = split_resume(arguments.resume, arguments.overrides)
        config = load_config(arguments.config, overrides)
        from lope_dist.train.session import train

        train(config, resume=resume)
    except (LopeError, Preempted) as error:
        end(error)


if __name__ == "__main__":
    main()
