"""`lope loss`, `score` and `scale`: what the likelihood of examples tells."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from lope_dist.cli.options import (
    BaseOption,
    BatchOption,
    CheckpointOption,
    DataArg,
    JsonOption,
    RunArg,
    TimeoutOption,
    TruthOption,
    show,
)
from lope_dist.cli.run_console import on_run_console
from lope_dist.core.errors import LopeError

app = typer.Typer()

LimitOption = Annotated[int | None, typer.Option(help="Use only this many first examples.")]


@app.command()
@on_run_console
def loss(
    run: RunArg,
    data: DataArg,
    experts: Annotated[
        str | None,
        typer.Option(
            help="Rows to measure, as in `lope eval`. Default: masked,all,base, as far as "
            "the run has them."
        ),
    ] = None,
    limit: LimitOption = None,
    batch_size: BatchOption = 16,
    checkpoint: CheckpointOption = "last",
    base: BaseOption = "auto",
    timeout: TimeoutOption = 3600.0,
    as_json: JsonOption = False,
) -> None:
    """Measure the loss of held-out responses with the run's rows and the base model.

    Example: lope loss runs/mine held_out.jsonl --experts masked,base
    """
    from lope_dist.evaluate.loaded.parallel import is_main
    from lope_dist.evaluate.loaded.placing import RankSettings, ranks
    from lope_dist.evaluate.losses.measure import LossRequest, measure_losses

    request = LossRequest(data, _words(experts), limit, batch_size, checkpoint)
    with ranks(RankSettings(base, timeout)) as world:
        table = measure_losses(run, request, world=world, base=base)
        if not is_main(world):
            return
    from lope_dist.evaluate.losses.scale import was_chosen_on

    if was_chosen_on(run, table["fingerprint"]):
        typer.echo(
            "warning: `lope scale` chose the run's scale on these data, so a row with that scale "
            "looks better here than it is; report it on others.",
            err=True,
        )
    from lope_dist.report.losses import print_losses

    show(table, as_json, print_losses)


@app.command()
@on_run_console
def score(
    run: RunArg,
    data: DataArg,
    out: Annotated[
        Path,
        typer.Option(
            help="A .jsonl file. The summary (.json) and the plot (.png) are written beside it."
        ),
    ],
    truth: TruthOption = None,
    by: Annotated[
        str | None, typer.Option(help="The score to rank by. docs/scoring.md lists all scores.")
    ] = None,
    limit: LimitOption = None,
    batch_size: BatchOption = 16,
    checkpoint: CheckpointOption = "last",
    base: BaseOption = "auto",
    timeout: TimeoutOption = 3600.0,
    as_json: JsonOption = False,
) -> None:
    """Rank examples by how noisy they look to a run. `lope clean` removes the noisiest.

    Example: lope score runs/mine rows.jsonl --out ranking.jsonl
    """
    from lope_dist.evaluate.loaded.parallel import is_main
    from lope_dist.evaluate.loaded.placing import RankSettings, ranks
    from lope_dist.evaluate.noisy_rows.score import ScoreRequest, score_run

    request = ScoreRequest(data, out, truth, by, limit, batch_size, checkpoint)
    with ranks(RankSettings(base, timeout)) as world:
        summary = score_run(run, request, world=world, base=base)
        if not is_main(world):
            return
    from lope_dist.report.score_plots import plot_ranking
    from lope_dist.report.scores import print_scores

    if "histogram" in summary:
        plot_ranking(summary).savefig(out.with_suffix(".png"))
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        print_scores(summary)
        typer.echo(f"Written: {out}")


@app.command()
@on_run_console
def scale(
    run: RunArg,
    data: DataArg,
    experts: Annotated[
        str | None,
        typer.Option(
            help="Rows to find a scale for, comma-separated. Default: masked,all, as far "
            "as the run has them."
        ),
    ] = None,
    grid: Annotated[
        str, typer.Option(help="Factors on the adapter's output to try, comma-separated.")
    ] = "0.25,0.5,0.75,1,1.25",
    limit: LimitOption = None,
    batch_size: BatchOption = 16,
    base: BaseOption = "auto",
    timeout: TimeoutOption = 3600.0,
    as_json: JsonOption = False,
) -> None:
    """Find the scale of the adapter with the lowest loss of held-out responses.

    Do not report results on the same rows.

    Example: lope scale runs/mine choose_on.jsonl --experts masked,all
    """
    from lope_dist.evaluate.loaded.parallel import is_main
    from lope_dist.evaluate.loaded.placing import RankSettings, ranks
    from lope_dist.evaluate.losses.scale import ScaleRequest, choose_scale

    request = ScaleRequest(data, _words(experts), _grid(grid), limit, batch_size)
    with ranks(RankSettings(base, timeout)) as world:
        chosen = choose_scale(run, request, world=world, base=base)
        if not is_main(world):
            return
    from lope_dist.report.losses import print_scales

    show(chosen, as_json, print_scales)


def _words(given: str | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(given.split(","))


def _grid(given: str) -> tuple[float, ...]:
    try:
        factors = sorted({float(factor) for factor in given.split(",")})
    except ValueError:
        factors = []
    if not factors or not 0 < factors[0] <= factors[-1] < math.inf:
        raise LopeError(f"--grid {given}: write numbers above 0, as in 0.5,0.75,1.")
    return tuple(factors)
