"""Score a run on many ranks: `torchrun launch/eval.py RUN --suite paper`.

Works the same under `deepspeed launch/eval.py ...` and, on one rank, under plain python. Each
rank holds the whole base model, or with `--base sharded` its part of it, and answers its share of
the batches; rank 0 writes RUN/results.json. The scores are those of `lope eval`: batches, few-shot
examples, metrics and standard errors do not depend on the number of ranks.

Environment: as for launch/train.py. RUN and the model's folder must be readable on every host
by the same path. `--interface eth0` names the network between the hosts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lope_dist.core.console import open_console
from lope_dist.core.errors import Interrupted, LopeError
from lope_dist.core.exits import end


def main() -> None:
    """Parse the launcher's arguments and score."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # Not an option: torchrun takes --run for an abbreviation of one of its own.
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a training run")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--tasks", help="lm-eval tasks or groups, comma-separated")
    what.add_argument("--suite", help="a suite of eval/suites by name, or a YAML file")
    parser.add_argument("--experts", default="masked", help="rows, as of `lope eval`")
    parser.add_argument("--include-path", help="folder of task YAMLs instead of lm-eval's own")
    parser.add_argument("--num-fewshot", type=int, help="examples in the prompt")
    parser.add_argument("--limit", type=float, help="documents of each task, or a share below 1")
    parser.add_argument("--batch-size", default="8", help="requests of a forward pass, or auto")
    parser.add_argument("--apply-chat-template", action="store_true", help="wrap prompts in it")
    parser.add_argument("--checkpoint", default="last", help="last, best or a number of steps")
    parser.add_argument("--rescore", action="store_true", help="score again what is scored")
    parser.add_argument(
        "--base",
        default="auto",
        help="whole on each rank, sharded over them, or auto: whole where that fits",
    )
    parser.add_argument("--interface", help="network interface that joins the hosts")
    parser.add_argument(
        "--timeout", type=float, default=3600.0, metavar="S", help="how long ranks wait for another"
    )
    parser.add_argument("--local_rank", type=int, help="set by some launchers; not used")
    arguments = parser.parse_args()
    with open_console():
        try:
            _evaluate(arguments)
        except LopeError as error:
            end(error)
        except KeyboardInterrupt:
            end(Interrupted("Stopped by Ctrl-C; the same command goes on from the answers kept."))


def _evaluate(arguments: argparse.Namespace) -> None:
    from lope_dist.evaluate.batching import read_batch_size
    from lope_dist.evaluate.parallel import is_main
    from lope_dist.evaluate.placing import RankSettings, ranks
    from lope_dist.evaluate.suite import EvalRequest, evaluate_run
    from lope_dist.report.tables import print_results

    request = EvalRequest(
        tasks=tuple(arguments.tasks.split(",")) if arguments.tasks is not None else (),
        suite=arguments.suite,
        experts=tuple(arguments.experts.split(",")),
        include_path=arguments.include_path,
        num_fewshot=arguments.num_fewshot,
        limit=arguments.limit,
        batch_size=read_batch_size(arguments.batch_size),
        apply_chat_template=arguments.apply_chat_template,
        rescore=arguments.rescore,
        checkpoint=arguments.checkpoint,
    )
    settings = RankSettings(arguments.base, arguments.timeout, arguments.interface)
    with ranks(settings) as world:
        results = evaluate_run(arguments.run, request, world, arguments.base)
        if is_main(world):
            print_results(results)


if __name__ == "__main__":
    main()
