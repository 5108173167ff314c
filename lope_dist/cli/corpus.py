"""`lope corpus`: data sets before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lope_dist.cli.options import JsonOption

app = typer.Typer()
corpus = typer.Typer(no_args_is_help=True)
app.add_typer(corpus, name="corpus", help="Data sets before training: corrupt.")


@corpus.command()
def corrupt(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A .json, .jsonl or .parquet file.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A new .jsonl or .parquet file.")],
    rate: Annotated[float, typer.Option(help="Share of the units that are hit.")] = 0.05,
    unit: Annotated[str, typer.Option(help="word, character or example.")] = "word",
    strength: Annotated[
        float | None, typer.Option(help="With --unit example: share of the words hit.")
    ] = None,
    operations: Annotated[
        str, typer.Option(help="Comma-separated, with an optional weight: keyboard=3,ocr.")
    ] = "word_order,char_insert,char_delete",
    fields: Annotated[
        str, typer.Option(help="Which parts may be hit.")
    ] = "instruction,input,response",
    response_rate: Annotated[
        float, typer.Option(help="Share of the examples whose answer is wrong as a whole.")
    ] = 0.0,
    response_operations: Annotated[
        str, typer.Option(help="wrong_label, truncate, garbage, wrong_language; as --operations.")
    ] = "wrong_label",
    seed: Annotated[int, typer.Option(help="All randomness follows from this.", min=0)] = 614,
    as_json: JsonOption = False,
) -> None:
    """Write a corrupted copy of a data set, with a column that says what was done to each row."""
    from lope_dist.config.load import validate_section
    from lope_dist.config.noise import DataNoiseConfig

    config = validate_section(
        DataNoiseConfig,
        {
            "rate": rate,
            "unit": unit,
            "strength": strength,
            "operations": _weights(operations, "--operations"),
            "fields": fields.split(","),
            "responses": {
                "rate": response_rate,
                "operations": _weights(response_operations, "--response-operations"),
            },
        },
        "lope corpus corrupt",
    )
    from dataclasses import asdict

    from lope_dist.corpus.corrupt import corrupt_file

    summary = corrupt_file(source, target, config, seed)
    if as_json:
        typer.echo(json.dumps({"path": str(target)} | asdict(summary)))
        return
    hits = ", ".join(f"{name} {count}" for name, count in summary.hits.items()) or "none"
    typer.echo(f"Written: {target}: {summary.rows_hit} of {summary.rows} rows hit ({hits})")


def _weights(given: str, option: str) -> list[str] | dict[str, float]:
    """Read ``name`` or ``name=weight``, comma-separated; all or none have a weight of their own."""
    from lope_dist.core.errors import LopeError

    entries = [entry.strip().partition("=") for entry in given.split(",") if entry.strip()]
    if not any(equals for _, equals, _ in entries):
        return [name for name, _, _ in entries]
    try:
        return {name: float(weight) if equals else 1.0 for name, equals, weight in entries}
    except ValueError:
        raise LopeError(
            f"{option} = {given!r}: write name=weight, as in keyboard=3,ocr=1."
        ) from None
