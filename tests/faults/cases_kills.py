"""kill -9 of one rank at twenty moments, then an automatic resume on other ranks."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from faults.base import case
from faults.runs import (
    NUM_STEPS,
    STAGES,
    assert_equals_undisturbed,
    distance,
    journal,
    reference,
    train,
    write_recipe,
)
from faults.waits import assert_none_left, assert_within
from support.launching import succeed

from lope_dist.core.errors import EXIT_PEER_LOST
from lope_dist.core.runlog import read_json
from lope_dist.train.checkpoint.history import checkpoints, last_checkpoint

GROUP = "kill -9 of a rank"
SAME = 1e-5
"""Largest difference of a weight from the undisturbed run on as many ranks."""
ELSEWHERE = 1e-3
"""The same where the number of ranks, and so the order of sums, has changed."""
ENDS_S = 10.0
"""In which the other ranks have to end."""
IN_CI = {6}

# (moment, how often it happens on one rank of a whole run, at least; does rank 0 alone come there)
MOMENTS: tuple[tuple[str, int, bool], ...] = (
    ("start", 1, False),
    ("load", 14, False),
    ("batch", 8, False),
    ("forward", 8, False),
    ("forward", 8, False),
    ("backward", 8, False),
    ("step", 8, False),
    ("stepped", 8, False),
    ("between", 8, False),
    ("gather", 2, False),
    ("weights written", 4, True),
    ("optimizer written", 2, True),
    ("state written", 4, True),
    ("sealed", 4, True),
    ("published", 4, True),
    ("stage end", 2, True),
    ("prune", 2, True),
    ("stage switch", 2, False),
    ("engine made", 2, False),
    ("install", 1, False),
)
assert len(MOMENTS) == 20


def _register(number: int, moment: str, times: int, on_main: bool) -> None:
    draw = random.Random(614_000 + number)
    ranks, then = draw.randint(2, 4), draw.randint(1, 4)
    victim = 0 if on_main else draw.randrange(ranks)
    nth = draw.randint(1, times)

    @case(
        f"kill-{number:02d}",
        group=GROUP,
        states=f"Rank {victim} of {ranks} is killed at '{moment}' (occurrence {nth}); the others "
        f"end within {ENDS_S:.0f} s, and a resume on {then} ranks ends in the undisturbed run.",
        in_ci=number in IN_CI,
    )
    def kill(folder: Path) -> dict[str, Any]:
        return _kill(folder, ranks, then, victim, moment, nth)


def _kill(
    folder: Path, ranks: int, then: int, victim: int, moment: str, nth: int
) -> dict[str, Any]:
    recipe, run = write_recipe(folder, train__checkpoint__keep_last=1), folder / "run"
    attempt = 0
    if moment == "install":  # comes in a resume alone
        train(recipe, ranks, victim=victim, moment="between", nth=3, harm="KILL")
        attempt = 1
    ended = train(
        recipe, ranks, attempt=attempt, victim=victim, moment=moment, nth=nth, harm="KILL"
    )
    assert ended[victim].status == -9, ended[victim].output[-3000:]
    assert f"struck at {moment}" in ended[victim].output
    others = [rank for number, rank in enumerate(ended) if number != victim]
    slowest = max((rank.ended - ended[victim].ended for rank in others), default=0.0)
    for rank in others:
        assert rank.status == EXIT_PEER_LOST, rank.output[-3000:]
        assert f"Rank {victim} " in rank.output, rank.output[-3000:]
    assert_within(slowest, ENDS_S)
    assert_none_left(folder)

    last = last_checkpoint(run)
    assert last == next(iter(checkpoints(run)), None), "what is there under its name is whole"
    state = None if last is None else read_json(last.folder / "state.json")
    begun = journal(folder, 0) | journal(folder, attempt)
    succeed(train(recipe, then, attempt=attempt + 1))
    again = journal(folder, attempt + 1)
    first = _next_step(state)
    if first is None:
        assert again == {}
    else:
        assert min(again, key=_place) == first  # at its checkpoint: nothing lost, nothing left out
    made_again = len(begun.keys() & again.keys())
    assert made_again <= 2  # the steps since the last checkpoint, the one begun included
    assert_equals_undisturbed(folder, attempt + 2, reference(folder, ranks))
    gap = distance(folder, reference(folder, ranks))
    assert gap <= (SAME if ranks == then else ELSEWHERE), gap
    figures = {"ranks": ranks, "then": then, "others_ended_s": round(slowest, 1)}
    return figures | {"steps_made_again": made_again, "largest_difference": gap}


def _next_step(state: dict | None) -> tuple[str, int] | None:
    """Return the step at which a resume begins; None if there is nothing left."""
    if state is None:
        return STAGES[0], 0
    if state["next_step"] < state["steps"]:
        return state["stage"], state["next_step"]
    rest = STAGES[state["stage_index"] :]
    return (rest[0], 0) if rest else None


def _place(step: tuple[str, int]) -> int:
    return STAGES.index(step[0]) * NUM_STEPS + step[1]


for _number, (_moment, _times, _on_main) in enumerate(MOMENTS):
    _register(_number, _moment, _times, _on_main)
