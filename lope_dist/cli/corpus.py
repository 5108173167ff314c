"""`lope corpus`: data sets before training, and tokens on disk that every run can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lope_dist.cli.options import ConfigArg, JsonOption, OverridesArg
from lope_dist.core.errors import LopeError

if TYPE_CHECKING:
    from lope_dist.corpus.built.manifest import Manifest

corpus = typer.Typer(
    no_args_is_help=True, help="Build, join, check and show tokenized corpora; corrupt a data set."
)
app = typer.Typer()
app.add_typer(corpus, name="corpus")

CorpusArg = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a built corpus.")]


@corpus.command()
def build(
    config: ConfigArg,
    out: Annotated[Path, typer.Option(help="Folder of the corpus.")],
    overrides: OverridesArg = None,
    node_rank: Annotated[int, typer.Option(help="Number of this node, from 0.")] = 0,
    num_nodes: Annotated[
        int, typer.Option(help="Number of nodes. Each builds its share of the shards.")
    ] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this node.")] = 1,
    shard_examples: Annotated[int, typer.Option(min=1, help="Examples of a shard.")] = 4096,
    as_json: JsonOption = False,
) -> None:
    """Tokenize a recipe's data, clean and with each epoch's noise. Continues where it stopped.

    Example: lope corpus build recipe.yaml --out corpus --workers 4
    """
    if not 0 <= node_rank < num_nodes:
        raise LopeError(
            f"--node-rank {node_rank} with --num-nodes {num_nodes}: ranks go from 0 to the number "
            "of nodes less one."
        )
    from lope_dist.config.load import load_config

    resolved = load_config(config, overrides or ())
    from lope_dist.train.corpus_build import build_corpus

    try:
        built = build_corpus(
            resolved,
            out,
            shard_examples=shard_examples,
            node_rank=node_rank,
            num_nodes=num_nodes,
            workers=workers,
        )
    except KeyboardInterrupt:
        typer.echo("Stopped. The same command continues; complete shards are kept.", err=True)
        raise typer.Exit(130) from None
    if built.manifest is not None:
        _tell(out, built.manifest, as_json, made=built.made, found=built.found)
    elif as_json:
        typer.echo(json.dumps({"made": built.made, "found": built.found, "hash": None}))
    else:
        typer.echo(
            f"Part {node_rank} of {num_nodes} is whole: {built.made} shards made, {built.found} "
            f"there before. When all parts are: lope corpus merge {out}"
        )


@corpus.command()
def merge(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...", help="Folders with parts. The first one gets all of them."
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Join the parts that nodes built into one corpus.

    Example: lope corpus merge corpus
    """
    from lope_dist.corpus.built.build import merge as join

    _tell(folders[0], join(folders), as_json)


@corpus.command()
def verify(folder: CorpusArg, as_json: JsonOption = False) -> None:
    """Check the hash of every shard.

    Example: lope corpus verify corpus
    """
    from lope_dist.corpus.built.corpus import verify as check

    _tell(folder, check(folder), as_json)


@corpus.command()
def show(
    folder: CorpusArg,
    count: Annotated[int, typer.Option("-n", min=1, help="Examples to show.")] = 5,
    first: Annotated[int, typer.Option(help="The first example, from 0.")] = 0,
    epoch: Annotated[int, typer.Option(help="The epoch whose noise is shown.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Print examples clean and noisy, with the changes marked.

    Example: lope corpus show corpus -n 3
    """
    from lope_dist.train.corpus_build import show_corpus

    examples = show_corpus(folder, first=first, count=count, epoch=epoch)
    if as_json:
        typer.echo(json.dumps(examples, indent=2, ensure_ascii=False))
    else:
        from lope_dist.report.corpus import print_examples

        print_examples(examples)


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
        float, typer.Option(help="Share of the examples whose whole answer becomes wrong.")
    ] = 0.0,
    response_operations: Annotated[
        str, typer.Option(help="wrong_label, truncate, garbage, wrong_language; as --operations.")
    ] = "wrong_label",
    seed: Annotated[int, typer.Option(help="Seed of all randomness.", min=0)] = 614,
    as_json: JsonOption = False,
) -> None:
    """Write a corrupted copy of a data set. A column records the noise of each row.

    Example: lope corpus corrupt clean.jsonl noisy.jsonl --rate 0.05 --operations keyboard
    """
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
    requested = [
        *(config.shares if rate else ()),
        *(config.responses.shares if response_rate else ()),
    ]
    if idle := [name for name in requested if name not in summary.hits]:
        typer.echo(f"Hit nothing, as these texts have nothing for it: {', '.join(idle)}.", err=True)
    if as_json:
        typer.echo(json.dumps({"path": str(target)} | asdict(summary)))
        return
    hits = ", ".join(f"{name} {count}" for name, count in summary.hits.items()) or "none"
    typer.echo(f"Written: {target}: {summary.rows_hit} of {summary.rows} rows hit ({hits})")


def _tell(folder: Path, manifest: Manifest, as_json: bool, **more: int) -> None:
    tree = manifest.model_dump(mode="json")
    if as_json:
        keys = ("hash", "fingerprint", "counts")
        typer.echo(json.dumps({key: tree[key] for key in keys} | more, indent=2))
        return
    from lope_dist.report.corpus import print_counts

    print_counts(tree)
    typer.echo(f"Whole: {folder}")


def _weights(given: str, option: str) -> list[str] | dict[str, float]:
    """Read ``name`` or ``name=weight``, comma-separated; all or none have a weight of their own."""
    entries = [entry.strip().partition("=") for entry in given.split(",") if entry.strip()]
    if not any(equals for _, equals, _ in entries):
        return [name for name, _, _ in entries]
    try:
        return {name: float(weight) if equals else 1.0 for name, equals, weight in entries}
    except ValueError:
        raise LopeError(
            f"{option} = {given!r}: write name=weight, as in keyboard=3,ocr=1."
        ) from None
