"""Batches of one evaluation, dealt whole to the ranks that answer together.

Batches are formed first, from all requests and without regard to the number of ranks, so the same
rows share a forward pass, with the same padding, on any number of them: the answers are equal bit
for bit. Every rank forms all batches, as one process would; the answers are exchanged, and every
rank computes the scores from all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from lope_dist.core.bars import counted
from lope_dist.core.exits import note_progress
from lope_dist.core.fingerprint import json_hash
from lope_dist.engine.exchange import exchange, refuse_unlike
from lope_dist.engine.world import World
from lope_dist.evaluate.loaded.load import LoadedRun
from lope_dist.train.checkpoint.folder import Checkpoint, checkpoint_in

T = TypeVar("T")


def answer_batches(
    run: LoadedRun,
    batches: Sequence[T],
    answer: Callable[[T], Any],
    *,
    title: str,
    progress: bool,
) -> list[Any]:
    """Return the answer to each batch, given by one of the ranks; what JSON makes of it.

    The longest batches should come first: neighbours are answered at the same time.

    Collective: yes, with a world; every rank passes the same batches.

    Raises:
        LopeError: other batches on another rank.
    """
    _refuse_other_batches(batches, run.world)
    return _answered(run, batches, answer, title=title, progress=progress)


def _answered(
    run: LoadedRun,
    batches: Sequence[T],
    answer: Callable[[T], Any],
    *,
    title: str = "",
    progress: bool = False,
) -> list[Any]:
    world = run.world
    of_rank = batches if world is None else batches[world.rank :: world.size]
    shown_batches = counted(of_rank, title, "batches", is_shown=progress and is_main(world))
    with run.together():
        results = [answer(batch) for batch in shown_batches]
    if world is None:
        return json.loads(json.dumps(results))
    answers: list[Any] = [None] * len(batches)
    for rank, text in enumerate(exchange(json.dumps(results), world)):
        answers[rank :: world.size] = json.loads(text)
    return answers


def answer_in_rounds(
    run: LoadedRun, batches: Sequence[T], answer: Callable[[T], Any]
) -> Iterator[list[Any]]:
    """Yield the answers of `answer_batches` round by round, a batch a rank, as they are there.

    Collective: yes, with a world; every rank passes the same batches and takes all rounds.

    Raises:
        LopeError: other batches on another rank.
    """
    _refuse_other_batches(batches, run.world)
    size = 1 if run.world is None else run.world.size
    for first in range(0, len(batches), size):
        yield _answered(run, batches[first : first + size], answer)
        note_progress()


def _refuse_other_batches(batches: Sequence[Any], world: World | None) -> None:
    if world is None or world.size == 1:
        return  # to hash tokens takes a while
    refuse_unlike(
        {"batches": json_hash([json_hash(batch) for batch in batches])},
        world,
        "answers would go to wrong rows; give all ranks the same rows, tokenizer and options",
    )


def is_main(world: World | None) -> bool:
    """Return whether this rank prints and writes."""
    return world is None or world.is_main


def on_main(world: World | None, find: Callable[[], T]) -> T:
    """Return what rank 0 finds, JSON-able, on every rank; if it fails there, all stop.

    Collective: yes, with a world.
    """
    if world is None:
        return find()
    return json.loads(exchange(json.dumps(world.on_main(find)), world)[0])


def agreed(checkpoint: Checkpoint, world: World | None) -> Checkpoint:
    """Return the checkpoint that rank 0 found; a run that goes on may have two.

    Collective: yes, with a world.

    Raises:
        LopeError: on another rank it is absent, or holds another adapter.
    """
    if world is None:
        return checkpoint
    folder = checkpoint.folder
    name = exchange(folder.name, world)[0]
    if name != folder.name:
        of_main = checkpoint_in(folder.with_name(name))
        assert of_main is not None, "rank 0 read it from a folder's name"
        checkpoint = of_main
    is_there = checkpoint.folder.is_dir()
    refuse_unlike(
        {f"adapter in {name}": checkpoint.adapter_sha256 if is_there else None},
        world,
        "give all hosts the same run: its folder on a shared file system, or a new copy",
    )
    return checkpoint
