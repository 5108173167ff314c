"""Train on many ranks: `deepspeed launch/train.py CONFIG [KEY=VALUE]...`.

Works the same under `torchrun launch/train.py ...` and, on one rank, under plain python.
Every rank runs this file; rank 0 prints, logs and writes. Exit status 0: done; 2: an error,
told in one sentence; 75: stopped by SIGTERM or SIGUSR1 after a checkpoint, to be resumed; 130:
the same by Ctrl-C.
"""

from __future__ import annotations

import argparse

from lope_dist.core.console import open_console
from lope_dist.core.errors import Interrupted, LopeError, Preempted
from lope_dist.core.exits import end


def main() -> None:
    """Parse the launcher's arguments and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, usage="train.py CONFIG [KEY=VALUE]... [--resume [auto]]"
    )
    parser.add_argument("--config", metavar="CONFIG", help="the same as the first argument")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last whole checkpoint; --resume auto: or start anew if there is none",
    )
    parser.add_argument(
        "--accept-data-change",
        action="store_true",
        help="with --resume: go on although rows were changed, as when a bad one was mended",
    )
    parser.add_argument(
        "--extend", metavar="STAGE=N", help="go on until the stage has N epochs or steps in all"
    )
    parser.add_argument("--local_rank", type=int, help="set by some launchers; not used")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG [KEY=VALUE]...",
        help="YAML recipe and dotted overrides of its keys, as for `lope train`",
    )
    arguments = parser.parse_intermixed_args()
    recipe, words = arguments.config, arguments.words
    if recipe is None:
        if not words:
            parser.error("give the recipe: train.py CONFIG [KEY=VALUE]...")
        recipe, *words = words
    try:
        from lope_dist.config.load import load_config, split_resume

        resume, overrides = split_resume(arguments.resume, words)
        config = load_config(recipe, overrides)
        from lope_dist.train.session import train

        train(
            config,
            resume=resume,
            accepts_other_data=arguments.accept_data_change,
            extend=arguments.extend,
        )
    except (LopeError, Preempted) as error:
        end(error)
    except KeyboardInterrupt:
        end(Interrupted("Stopped by Ctrl-C before the run began."))


if __name__ == "__main__":
    with open_console():
        main()
