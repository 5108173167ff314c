"""`lope generate` and `chat`: what a run answers, in words."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from lope_dist.cli.options import BaseOption, JsonOption, RunArg, TimeoutOption
from lope_dist.cli.run_console import on_run_console
from lope_dist.core.errors import LopeError

app = typer.Typer()

_A_DAY_S = 86400.0  # ranks of a chat wait for one that waits for its user
ExpertsOption = Annotated[
    str | None,
    typer.Option(
        help="The row that answers, as in `lope eval`. Default: masked, if the run has it."
    ),
]
CompareOption = Annotated[
    str | None,
    typer.Option(help="Instead of --experts: several rows side by side, e.g. masked,all,base."),
]
TokensOption = Annotated[int, typer.Option(help="Most tokens of an answer.")]
TemperatureOption = Annotated[float, typer.Option(help="0 takes the most likely token each time.")]
TopPOption = Annotated[
    float,
    typer.Option(help="Sample from the most likely tokens with this total probability."),
]
SeedOption = Annotated[int, typer.Option(help="Seed of the sampling.")]


@app.command()
@on_run_console
def generate(
    run: RunArg,
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT...", help="Prompts, as a user writes them.")
    ],
    experts: ExpertsOption = None,
    compare: CompareOption = None,
    max_new_tokens: TokensOption = 256,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    seed: SeedOption = 0,
    base: BaseOption = "auto",
    timeout: TimeoutOption = 3600.0,
    as_json: JsonOption = False,
) -> None:
    """Answer prompts with the run's template. The ranks of a launcher share the prompts.

    Example: lope generate runs/mine "Name three colours." --compare masked,base
    """
    from lope_dist.evaluate.asking import Decoding
    from lope_dist.evaluate.asking import generate as answer
    from lope_dist.evaluate.loaded.load import load_run
    from lope_dist.evaluate.loaded.parallel import is_main
    from lope_dist.evaluate.loaded.placing import RankSettings, ranks

    words = _words(experts, compare)
    decoding = Decoding(max_new_tokens, temperature, top_p, seed)
    with ranks(RankSettings(base, timeout)) as world:
        first = words[0] if words else None
        loaded = load_run(run, experts=first, progress=is_main(world), world=world, base=base)
        rows = words or [loaded.context.answer.experts]
        answers_of_prompts = answer(loaded, prompts, rows, decoding)
        if is_main(world):
            answers = [
                {"prompt": p, "answers": a}
                for p, a in zip(prompts, answers_of_prompts, strict=True)
            ]
            if as_json:
                typer.echo(json.dumps(answers, indent=2, ensure_ascii=False))
            else:
                for of_rows in answers_of_prompts:
                    _show(of_rows)


@app.command()
def chat(
    run: RunArg,
    experts: ExpertsOption = None,
    compare: CompareOption = None,
    max_new_tokens: TokensOption = 256,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    seed: SeedOption = 0,
    base: BaseOption = "auto",
) -> None:
    """Chat with a run. /reset starts a new conversation; /quit or Ctrl-D ends.

    Example: lope chat runs/mine --experts masked
    """
    from lope_dist.evaluate.asking import Decoding
    from lope_dist.evaluate.loaded.load import load_run
    from lope_dist.evaluate.loaded.parallel import is_main
    from lope_dist.evaluate.loaded.placing import RankSettings, ranks

    words = _words(experts, compare)
    decoding = Decoding(max_new_tokens, temperature, top_p, seed)
    with ranks(RankSettings(base, _A_DAY_S)) as world:
        first = words[0] if words else None
        loaded = load_run(run, experts=first, progress=is_main(world), world=world, base=base)
        with loaded.together():  # the other ranks gather until this one is done
            if is_main(world):
                _talk(loaded, words or [loaded.context.answer.experts], decoding)


def _talk(run: Any, words: list[str], decoding: Any) -> None:
    from lope_dist.corpus.rows.turns import Turn
    from lope_dist.evaluate.asking import reply, rows_of

    rows = dict(zip(words, rows_of(run, words), strict=True))
    histories: dict[str, list[Turn]] = {word: [] for word in words}
    while (text := _read()) is not None:
        if text == "/reset":
            histories = {word: [] for word in words}
            continue
        answers = {}
        for word, row in rows.items():
            asked = [*histories[word], Turn("user", text)]
            with run.context.answering(row):
                answers[word] = reply(run, asked, decoding, _write if len(words) == 1 else None)
            histories[word] = [*asked, Turn("assistant", answers[word])]
        if len(words) == 1:
            typer.echo()
        else:
            _show(answers)


def _read() -> str | None:
    """Return what the user says next, None at the end; nothing said is asked for again."""
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            return None
        if text == "/quit":
            return None
        if text:
            return text


def _write(text: str) -> None:
    typer.echo(text, nl=False)


def _show(answers: dict[str, str]) -> None:
    """Print answers: one as it is, several in columns."""
    if len(answers) == 1:
        typer.echo(next(iter(answers.values())))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=True)
    for word in answers:
        table.add_column(word, ratio=1, overflow="fold")
    table.add_row(*map(Text, answers.values()))
    Console().print(table)


def _words(experts: str | None, compare: str | None) -> list[str]:
    if experts is not None and compare is not None:
        raise LopeError(
            "--experts and --compare both choose the rows that answer; give one of them."
        )
    words = (compare or experts or "").split(",")
    if compare is None and len(words) > 1:
        raise LopeError(f"--experts {experts}: one row answers; for several give --compare.")
    return [word for word in words if word]
