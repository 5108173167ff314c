"""`lope export`: a trained run as files for others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lope_dist.cli.options import BaseOption, CheckpointOption, JsonOption, RunArg, TimeoutOption
from lope_dist.cli.run_console import on_run_console

app = typer.Typer()


@app.command()
@on_run_console
def export(
    run: RunArg,
    kind: Annotated[str, typer.Option("--format", help="purified, peft or merged.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to create. Default: RUN/exports/FORMAT.")
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="Examples for the mean router weights. Default: the training data."),
    ] = None,
    calibration_rows: Annotated[
        int, typer.Option(help="Examples to average over; as many others are used to compare.")
    ] = 64,
    checkpoint: CheckpointOption = "last",
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            metavar="REPO_ID", help="Upload the folder to this hub repository afterwards."
        ),
    ] = None,
    private: Annotated[bool, typer.Option(help="Make a new hub repository private.")] = False,
    base: BaseOption = "auto",
    timeout: TimeoutOption = 3600.0,
    as_json: JsonOption = False,
) -> None:
    """Export a run without its poisoning expert: purified, as a PEFT LoRA, or merged into its base.

    Under a launcher rank 0 writes, and the base may be spread over all ranks.

    Example: lope export runs/mine --format peft
    """
    from lope_dist.core.errors import LopeError

    if private and push_to_hub is None:
        raise LopeError("--private has no effect without --push-to-hub.")
    from lope_dist.evaluate.loaded.parallel import is_main
    from lope_dist.evaluate.loaded.placing import RankSettings, ranks
    from lope_dist.export.run import ExportRequest, export_run

    folder = out or run / "exports" / kind
    request = ExportRequest(kind, folder, calibration, calibration_rows, checkpoint)
    with ranks(RankSettings(base, timeout)) as world:
        manifest = export_run(run, request, world=world, base=base)
        if not is_main(world):
            return
    if as_json:
        typer.echo(json.dumps(manifest, indent=2))
    else:
        _print(manifest, folder)
    if push_to_hub is not None:
        from lope_dist.export.hub import push_to_hub as push

        typer.echo(f"Uploaded: {push(folder, push_to_hub, private=private)}", err=as_json)


def _print(manifest: dict, folder: Path) -> None:
    size = sum(file["size"] for file in manifest["files"].values())
    typer.echo(f"Written: {folder} ({size / 1e6:.2f} MB)")
    measured = manifest["comparison"]
    if manifest["is_exact"]:
        typer.echo("Exact: read back from disk, it answers as the run does, up to rounding.")
    else:
        typer.echo(
            "Not exact: the router weighs experts token by token, this export by their mean."
        )
    if measured is None:
        return
    typer.echo(f"Over {measured['tokens']:.0f} response tokens of other examples:")
    typer.echo(
        f"  KL from the routed model  {measured['kl']:.5f} nats (base {measured['kl_base']:.5f})"
    )
    typer.echo(f"  same likeliest token      {100 * measured['agreement']:.2f} %")
    for name in ("routed", "exported", "base"):
        accuracy, loss = measured[f"accuracy_{name}"], measured[f"loss_{name}"]
        typer.echo(f"  {name:9} accuracy {100 * accuracy:.2f} %, loss {loss:.4f}")
