"""`lope eval` and `lope report`: scores of a run, and its page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lope_dist.cli.options import (
    BaseOption,
    CheckpointOption,
    JsonOption,
    RunArg,
    RunsArg,
    TimeoutOption,
)
from lope_dist.core.console import open_console
from lope_dist.core.errors import LopeError

if TYPE_CHECKING:
    from lope_dist.evaluate.loaded.placing import RankSettings

app = typer.Typer()
_KEPT = "The answers so far are kept; the same command continues."


@app.command(name="eval")
def evaluate(
    run: RunArg,
    tasks: Annotated[
        str | None, typer.Option(help="lm-eval tasks or groups, comma-separated.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="Instead of --tasks: a suite of eval/suites by name, or a YAML file."),
    ] = None,
    experts: Annotated[
        str | None,
        typer.Option(
            help="Rows to score, comma-separated: masked, masked_plain, masked_normal, "
            "all, base. Settings follow a colon, e.g. all:scale=0.75 or masked:mode=unit:k=2. "
            "Default: masked for tasks; masked, all and base for the validation rows. A run "
            "without a poisoning expert has no masked row."
        ),
    ] = None,
    include_path: Annotated[
        str | None, typer.Option(help="Folder of task YAMLs to use instead of lm-eval's own.")
    ] = None,
    num_fewshot: Annotated[int | None, typer.Option(help="Examples in the prompt.")] = None,
    limit: Annotated[
        float | None, typer.Option(help="Documents of each task, or a share below 1.")
    ] = None,
    batch_size: Annotated[
        str, typer.Option(help="Requests of a forward pass, or auto for a fixed number of tokens.")
    ] = "8",
    apply_chat_template: Annotated[
        bool, typer.Option(help="Put prompts into the chat template.")
    ] = False,
    rescore: Annotated[bool, typer.Option(help="Compute existing scores again.")] = False,
    checkpoint: CheckpointOption = "last",
    base: BaseOption = "auto",
    timeout: TimeoutOption = 3600.0,
    interface: Annotated[
        str | None, typer.Option(help="Under a launcher: the network interface that joins hosts.")
    ] = None,
    as_json: JsonOption = False,
    _local_rank: Annotated[int | None, typer.Option("--local_rank", hidden=True)] = None,
) -> None:
    """Score a run on lm-eval tasks or, without tasks, on its validation rows.

    Existing scores are kept. An interrupted evaluation continues where it stopped.

    Example: lope eval runs/mine --tasks piqa --experts masked,base
    """
    from lope_dist.evaluate.loaded.placing import RankSettings

    settings = RankSettings(base, timeout, interface, kept=_KEPT)
    about_tasks = {
        "--include-path": include_path,
        "--num-fewshot": num_fewshot,
        "--apply-chat-template": apply_chat_template or None,
        "--rescore": rescore or None,
    }
    with open_console():
        if tasks is None and suite is None:
            _score_validation(
                run,
                about_tasks,
                experts=experts,
                limit=limit,
                batch_size=batch_size,
                checkpoint=checkpoint,
                settings=settings,
                as_json=as_json,
            )
            return
        from lope_dist.evaluate.harness.batching import read_batch_size
        from lope_dist.evaluate.harness.suite import EvalRequest, evaluate_run
        from lope_dist.evaluate.loaded.parallel import is_main
        from lope_dist.evaluate.loaded.placing import ranks

        request = EvalRequest(
            tasks=tuple(tasks.split(",")) if tasks is not None else (),
            suite=suite,
            experts=tuple(experts.split(",")) if experts else (),
            include_path=include_path,
            num_fewshot=num_fewshot,
            limit=limit,
            batch_size=read_batch_size(batch_size),
            apply_chat_template=apply_chat_template,
            rescore=rescore,
            checkpoint=checkpoint,
        )
        with ranks(settings) as world:
            results = evaluate_run(run, request, world, base)
            if not is_main(world):
                return
            if as_json:
                typer.echo(json.dumps(results, indent=2))
            else:
                from lope_dist.report.tables import print_results

                print_results(results)


def _score_validation(
    run: Path,
    about_tasks: dict[str, Any],
    *,
    experts: str | None,
    limit: float | None,
    batch_size: str,
    checkpoint: str,
    settings: RankSettings,
    as_json: bool,
) -> None:
    """Measure the losses of the rows that a run holds out."""
    for option, value in about_tasks.items():
        if value is not None:
            raise LopeError(
                f"{option} applies to tasks only, and without --tasks or --suite the run's "
                "validation rows are scored; name tasks, or leave it out."
            )
    if limit is not None and limit != int(limit):
        raise LopeError(f"--limit {limit:g}: of validation rows it is a whole number.")
    if not batch_size.isdecimal() or int(batch_size) < 1:
        raise LopeError(f"--batch-size {batch_size}: of validation rows it is a whole number.")
    from lope_dist.evaluate.loaded.parallel import is_main
    from lope_dist.evaluate.loaded.placing import ranks
    from lope_dist.evaluate.losses.measure import LossRequest, measure_losses

    rows = None if experts is None else tuple(experts.split(","))
    first = None if limit is None else int(limit)
    request = LossRequest(None, rows, first, int(batch_size), checkpoint)
    kept = "Rows of experts that are complete are kept; the same command continues."
    with ranks(replace(settings, kept=kept)) as world:
        table = measure_losses(run, request, world=world, base=settings.base)
        if not is_main(world):
            return
    if as_json:
        typer.echo(json.dumps(table, indent=2))
    else:
        from lope_dist.report.losses import print_losses

        print_losses(table)


@app.command()
def report(
    runs: RunsArg,
    out: Annotated[
        Path, typer.Option(help="For several runs: the file of their common page.")
    ] = Path("comparison.html"),
    samples: Annotated[
        int,
        typer.Option(
            min=0,
            help="For one run: load the model and answer this many validation prompts. "
            "Later reports show the answers too.",
        ),
    ] = 0,
) -> None:
    """Write report.html with plots and tables of a run, or one page on several side by side.

    Example: lope report runs/mine
    """
    if samples and len(runs) > 1:
        raise LopeError("--samples is for the report of one run; name one.")
    if samples:
        from lope_dist.evaluate.samples import write_samples

        write_samples(runs[0], samples)
    from lope_dist.report.html import write_report
    from lope_dist.report.side_by_side import write_comparison

    page = write_report(runs[0]) if len(runs) == 1 else write_comparison(runs, out)
    typer.echo(f"Written: {page}")
