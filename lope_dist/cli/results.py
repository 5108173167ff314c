"""`lope eval` and `lope report`: scores of a run, and its page."""

from __future__ import annotations

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
    show,
)
from lope_dist.cli.run_console import keep_log_of
from lope_dist.core.console import open_console
from lope_dist.core.errors import LopeError
from lope_dist.core.side_files import RESULTS

if TYPE_CHECKING:
    from lope_dist.evaluate.losses.measure import LossRequest

app = typer.Typer()
_KEPT = "The answers so far are kept; the same command continues."
_KEPT_ROWS = "Rows of experts that are complete are kept; the same command continues."


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
    from lope_dist.evaluate.loaded.parallel import is_main
    from lope_dist.evaluate.loaded.placing import RankSettings, ranks

    settings = RankSettings(base, timeout, interface, kept=_KEPT)
    about_tasks = {
        "--include-path": include_path,
        "--num-fewshot": num_fewshot,
        "--apply-chat-template": apply_chat_template or None,
        "--rescore": rescore or None,
    }
    with open_console():
        if tasks is None and suite is None:
            losses = _validation_request(about_tasks, experts, limit, batch_size, checkpoint)
            from lope_dist.evaluate.losses.measure import measure_losses
            from lope_dist.report.losses import print_losses

            keep_log_of(run, "eval")
            with ranks(replace(settings, kept=_KEPT_ROWS)) as world:
                table = measure_losses(run, losses, world=world, base=base)
                if is_main(world):
                    show(table, as_json, print_losses)
            return
        from lope_dist.evaluate.harness.batching import read_batch_size
        from lope_dist.evaluate.harness.suite import EvalRequest, evaluate_run

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
            from lope_dist.report.current import newest_adapter, of_now
            from lope_dist.report.tables import print_results

            meant = newest_adapter(run)
            results = evaluate_run(run, request, world, base)
            if not is_main(world):
                return

            def show_table(table: dict[str, Any]) -> None:
                print_results(of_now(table, run, RESULTS.name, meant=meant))

            show(results, as_json, show_table)


def _validation_request(
    about_tasks: dict[str, Any],
    experts: str | None,
    limit: float | None,
    batch_size: str,
    checkpoint: str,
) -> LossRequest:
    """Return the request for the losses of the rows that a run holds out."""
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
    from lope_dist.evaluate.losses.measure import LossRequest

    rows = None if experts is None else tuple(experts.split(","))
    first = None if limit is None else int(limit)
    return LossRequest(None, rows, first, int(batch_size), checkpoint)


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
