"""Answers are kept one by one, and found again by request."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.models.utils import normalize_gen_kwargs
from support.thread_ranks import on_ranks, refusals

from lope_dist.engine.world import World
from lope_dist.evaluate.harness import answers
from lope_dist.evaluate.harness.answers import KeptAnswers, agree, refuse_other_requests

CHOICE = ("Räksmörgås?", " yes"), (-1.25e-7, True)
TEXT = ("Count", {"until": ["\n"], "do_sample": False}), "1 2\n3 \u2028"


def test_answers_are_found_by_request_kind_and_identity(tmp_path: Path) -> None:
    kept = KeptAnswers(tmp_path, {"row": 1}, 0)
    kept.add_partial("loglikelihood", *CHOICE)
    kept.add_partial("generate_until", *TEXT)
    requests = [("other", " yes"), CHOICE[0]]
    other_rank = KeptAnswers(tmp_path, {"row": 1}, 1)  # before the first one is closed
    assert other_rank.find("loglikelihood", requests) == {1: CHOICE[1]}
    assert other_rank.find("generate_until", [TEXT[0]]) == {0: TEXT[1]}
    assert other_rank.find("generate_until", requests) == {}
    assert KeptAnswers(tmp_path, {"row": 2}, 0).find("loglikelihood", requests) == {}
    kept.remove()
    assert KeptAnswers(tmp_path, {"row": 1}, 0).find("loglikelihood", requests) == {}


def test_a_half_written_line_is_passed_over_and_the_next_is_whole(tmp_path: Path) -> None:
    kept = KeptAnswers(tmp_path, "x", 0)
    kept.add_partial("loglikelihood", *CHOICE)
    kept.close()
    (file,) = kept.folder.iterdir()
    with file.open("a") as out:
        out.write('{"request": "ab", "ans')
    kept = KeptAnswers(tmp_path, "x", 0)
    kept.add_partial("generate_until", *TEXT)
    kept.close()
    kept = KeptAnswers(tmp_path, "x", 0)
    assert kept.find("loglikelihood", [CHOICE[0]]) == {0: CHOICE[1]}
    assert kept.find("generate_until", [TEXT[0]]) == {0: TEXT[1]}


@pytest.mark.parametrize(
    ("settings", "is_drawn"),
    [
        ({"do_sample": True}, True),
        ({"temperature": 0.7}, True),  # lm-eval samples then, without being told to
        ({"temperature": 0.7, "do_sample": False}, False),
        ({"temperature": 0.0}, False),
    ],
)
def test_sampled_answers_are_not_kept(
    tmp_path: Path, settings: dict[str, Any], is_drawn: bool
) -> None:
    assert normalize_gen_kwargs(settings)["do_sample"] == is_drawn
    asked = ("Count", settings)
    kept = KeptAnswers(tmp_path, "x", 0)
    kept.add_partial("generate_until", asked, "1")
    found = KeptAnswers(tmp_path, "x", 0).find("generate_until", [asked])
    assert found == ({} if is_drawn else {0: "1"})


def test_the_last_row_takes_the_folder_with_it(tmp_path: Path) -> None:
    one, two = KeptAnswers(tmp_path, 1, 0), KeptAnswers(tmp_path, 2, 0)
    one.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["answers"]
    two.remove()
    assert not list(tmp_path.iterdir())
    two.remove()  # another process was faster


def test_ranks_agree_on_what_all_of_them_know(monkeypatch: pytest.MonkeyPatch) -> None:
    told = ["[0, 2, 5]", "[2, 5, 7]"]
    monkeypatch.setattr(answers, "exchange", lambda text, world: told)
    world = World(0, 2, torch.device("cpu"))
    assert agree({0: "a", 2: "b", 5: "c"}, world) == {2: "b", 5: "c"}


def test_other_questions_on_another_rank_are_refused() -> None:
    requests = [CHOICE[0], ("Q", " A")]
    ended = on_ranks(2, partial(refuse_other_requests, "loglikelihood", requests))
    assert ended == [None, None]
    (told,) = refusals(
        2, lambda world: refuse_other_requests("x", requests[:: 1 - 2 * world.rank], world)
    )
    assert re.search("Rank 1 .*rank 0 .*questions.*HF_HOME", told)
