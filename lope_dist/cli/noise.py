"""`lope noise`: the noise of one's own data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lope_dist.cli.options import JsonOption

app = typer.Typer()
noise = typer.Typer(no_args_is_help=True)
app.add_typer(noise, name="noise", help="The noise of one's own data.")


@noise.callback()
def group() -> None:
    """The noise of one's own data."""


@noise.command()
def fit(
    noisy: Annotated[Path, typer.Option(help="Noisy rows: any file or glob that data.path takes.")],
    clean: Annotated[
        Path | None, typer.Option(help="The same rows without noise, in the same order.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Without pairs: other clean rows of the same kind.")
    ] = None,
    format: Annotated[str, typer.Option(help="As data.format, for both files.")] = "auto",
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=COLUMN", help="As data.columns; may be given repeatedly."),
    ] = None,
    max_bad_rows: Annotated[
        float, typer.Option(help="As data.max_bad_rows. The partner of a bad row is left out too.")
    ] = 0.0,
    out: Annotated[Path | None, typer.Option(help="Write a config layer (YAML) here.")] = None,
    section: Annotated[
        str, typer.Option(help="Write it as noise.text (injected) or as noise.data.")
    ] = "text",
    seed: Annotated[int, typer.Option(help="Seed of simulation and resampling.", min=0)] = 614,
    as_json: JsonOption = False,
) -> None:
    """Estimate the operations in the noise of a data set, and their rates.

    Example: lope noise fit --noisy mine.jsonl --clean mended.jsonl --out noise.yaml
    """
    from lope_dist.core.errors import LopeError

    if (clean is None) == (reference is None):
        raise LopeError(
            "lope noise fit needs one of --clean (the same rows without noise) and --reference "
            "(other clean rows)."
        )
    if section not in ("text", "data"):
        raise LopeError(f"--section = {section!r} is not allowed; allowed: text, data.")
    if out is not None and out.exists():
        raise LopeError(f"{out} exists already; remove it or give another name.")
    from lope_dist.config.data import DataConfig
    from lope_dist.config.load import validate_section
    from lope_dist.core.files import write_atomic
    from lope_dist.corpus.fit_noise import fit_paired, fit_unpaired

    if pairs := [pair for pair in column or () if "=" not in pair.strip("=")]:
        raise LopeError(f"--column {pairs[0]!r} is not FIELD=COLUMN, as in instruction=question.")
    columns = dict(pair.split("=", 1) for pair in column or ())
    keys = {"format": format, "columns": columns, "max_bad_rows": max_bad_rows}
    data = validate_section(DataConfig, {"path": str(noisy), **keys}, "lope noise fit")
    if clean is not None:
        result = fit_paired(noisy, clean, seed, data)
    else:
        assert reference is not None
        result = fit_unpaired(noisy, reference, seed, data)
    layer = result.as_yaml(section)
    if out is not None:
        write_atomic(out, layer)
    if as_json:
        typer.echo(json.dumps(result.as_json(), indent=2))
    else:
        typer.echo(layer, nl=False)
