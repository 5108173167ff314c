"""Build a corpus in many tasks through datatrove: on this machine, or as a Slurm job array.

    python launch/corpus.py --config CONFIG --out DIR --tasks 64 --workers 8 [KEY=VALUE ...]
    python launch/corpus.py ... --slurm-partition cpu --slurm-time 04:00:00 \
        --slurm-env 'source /path/of/venv/bin/activate'

On this machine the parts are joined at the end; after a Slurm job run `lope corpus merge DIR`.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from lope_dist.config.load import load_config
from lope_dist.core.errors import LopeError
from lope_dist.corpus.built.build import merge
from lope_dist.corpus.built.cluster import SlurmJob, run_local, submit_slurm
from lope_dist.train.corpus_build import build_corpus


def main() -> None:
    """Run the script; bad input ends with one sentence and status 2."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", required=True, help="YAML recipe")
    parser.add_argument("--out", required=True, type=Path, help="folder that all tasks reach")
    parser.add_argument("--tasks", required=True, type=int, help="parts")
    parser.add_argument("--workers", type=int, default=1, help="parts made at a time")
    parser.add_argument("--shard-examples", type=int, default=4096, help="examples of a shard")
    parser.add_argument("--logs", type=Path, help="default: OUT/logs")
    parser.add_argument("--slurm-partition", help="submit to Slurm, into this partition")
    parser.add_argument("--slurm-time", default="04:00:00", help="limit of a task")
    parser.add_argument("--slurm-qos", default="normal")
    parser.add_argument("--slurm-cpus", type=int, default=1, help="processes of a task")
    parser.add_argument("--slurm-memory-gb", type=int, default=4, help="of each CPU")
    parser.add_argument("--slurm-env", default="", help="shell line that activates the venv")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_intermixed_args()
    try:
        _run(args)
    except LopeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.status)


def _run(args: argparse.Namespace) -> None:
    if min(args.tasks, args.workers) < 1:
        raise LopeError("--tasks and --workers must be 1 or more.")
    out = args.out.resolve()
    part = partial(
        build_corpus,
        load_config(args.config, args.overrides),
        out,
        shard_examples=args.shard_examples,
        workers=args.slurm_cpus if args.slurm_partition else 1,
        progress=False,
    )
    logs = args.logs or out / "logs"
    if args.slurm_partition is None:
        run_local(part, logs, tasks=args.tasks, workers=args.workers)
        print(f"Whole: {out} ({merge([out]).hash})")
        return
    job = SlurmJob(
        args.slurm_partition,
        args.slurm_time,
        args.slurm_qos,
        args.slurm_cpus,
        args.slurm_memory_gb,
        args.slurm_env,
    )
    number = submit_slurm(part, logs, job, tasks=args.tasks, workers=args.workers)
    print(f"Job {number} is submitted. When it has ended: lope corpus merge {out}")


if __name__ == "__main__":
    main()
