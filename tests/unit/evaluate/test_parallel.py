"""Batches are those of one process, are dealt whole, and answers come back in their places."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.models.utils import Collator
from support.thread_ranks import on_ranks, refusals
from support.tiny import save_tiny_llama

from lope_dist.corpus.tokens.encode import Tokenized
from lope_dist.engine.world import World
from lope_dist.evaluate.harness.batching import likelihood_batches, text_batches
from lope_dist.evaluate.loaded import load, parallel
from lope_dist.evaluate.loaded.parallel import answer_batches, answer_in_rounds
from lope_dist.train.checkpoint.folder import Checkpoint

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=6)
ENCODED = st.lists(st.tuples(st.just("asked"), TOKENS, TOKENS), min_size=1, max_size=30)


def run_of(world: World) -> Any:
    """Return what batches are answered with, but for the model."""
    return SimpleNamespace(world=world, together=nullcontext)


@given(ENCODED, st.integers(1, 5), st.booleans())
def test_batches_of_likelihoods_are_those_that_lm_eval_forms(
    requests: list[Any], size: int, shares_rows: bool
) -> None:
    theirs = Collator(
        list(enumerate(requests)),
        sort_fn=lambda r: (-len(r[1][1] + r[1][2]), tuple(r[1][1] + r[1][2])),
        group_by="contexts" if shares_rows else None,
        group_fn=lambda r: tuple(r[1][1] + r[1][2][:-1]),
    )
    ours = likelihood_batches(requests, size, shares_rows=shares_rows)
    assert sorted(i for batch in ours for i in batch) == list(range(len(requests)))

    def rows(batch: list[int]) -> list[tuple[int, ...]]:
        """What a forward pass reads."""
        read = [tuple(requests[i][1] + requests[i][2][:-1]) for i in batch]
        return sorted(set(read) if shares_rows else read)

    def read(request: Any) -> tuple[int, ...]:
        return tuple(request[1] + request[2][:-1])

    expected = [sorted(read(r) for _, r in chunk) for chunk in theirs.get_batched(n=size)]
    assert [rows(batch) for batch in ours] == expected


def test_batches_of_texts_keep_settings_apart_and_fill_a_pass_with_tokens() -> None:
    lengths = [3000, 10, 2000, 2048, 11, 12]
    settings = [{"a": 1}, {"a": 2}, {"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}]
    found = text_batches(lengths, list("abcdef"), settings, "auto")
    assert found == [[0], [3, 2], [5, 4, 1]]
    assert text_batches(lengths, list("abcdef"), settings, 2) == [[0, 3], [2], [5, 4], [1]]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
def test_all_ranks_get_all_answers_in_order(num_ranks: int) -> None:
    batches = [[i, i + 1] for i in range(0, 20, 2)]

    answered: list[list[int]] = []

    def answer(batch: list[int]) -> list[float]:
        answered.append(batch)
        return [-1.1 / (i + 3) for i in batch]

    def ask(world: World) -> list[Any]:
        return answer_batches(run_of(world), batches, answer, title="", progress=False)

    expected = [[-1.1 / (i + 3) for i in batch] for batch in batches]
    assert on_ranks(num_ranks, ask) == [expected] * num_ranks
    assert sorted(answered) == batches, "each by one rank"


TOLD = r"Rank 1 \(on .*rank 0 .*batches \(.*same rows"


@pytest.mark.parametrize(
    "others",
    [
        [Tokenized(0, [5, 6], [5, 6], False), Tokenized(1, [7], [7], False)],  # another token
        [Tokenized(1, [5], [5], False), Tokenized(0, [7], [7], False)],  # another order
        [Tokenized(0, [5], [5], False)],  # fewer
    ],
)
@pytest.mark.parametrize("in_rounds", [True, False])
def test_other_batches_on_another_rank_are_refused(others: list[Tokenized], in_rounds) -> None:
    """Ids and answers of one rank's rows would be filed under another's."""
    rows = [Tokenized(0, [5], [5], False), Tokenized(1, [7], [7], False)]

    def ask(world: World) -> list[Any]:
        batches = [[row] for row in (others if world.rank else rows)]
        if in_rounds:
            return list(answer_in_rounds(run_of(world), batches, len))
        return answer_batches(run_of(world), batches, len, title="", progress=False)

    (told,) = refusals(2, ask)
    assert re.search(TOLD, told)


def test_batches_of_rounds_are_compared_once() -> None:
    batches = [[Tokenized(i, [i], [i], False)] for i in range(7)]
    rounds = on_ranks(3, lambda world: list(answer_in_rounds(run_of(world), batches, len)))
    assert rounds == [[[1, 1, 1], [1, 1, 1], [1]]] * 3


def test_a_stale_copy_of_a_run_is_refused(tmp_path: Path) -> None:
    """On a host with a disk of its own; one that has not the checkpoint either."""
    for host, sha in (("new", "a"), ("stale", "b"), ("equal", "a")):
        folder = tmp_path / host / "1-poison"
        folder.mkdir(parents=True)
        (folder / "adapter.json").write_text(json.dumps({"format": 1, "sha256": sha}))
    (tmp_path / "absent").mkdir()

    def ask(other: str, world: World) -> Checkpoint:
        folder = tmp_path / (other if world.rank else "new")
        return parallel.agreed(Checkpoint(folder / "1-poison", 1, "poison"), world)

    found = on_ranks(2, partial(ask, "equal"))
    assert [each.folder.parent.name for each in found] == ["new", "equal"]
    for other, sha in (("stale", '"b"'), ("absent", "null")):
        (told,) = refusals(2, partial(ask, other))
        assert f'adapter in 1-poison ({sha}, there "a")' in told


def test_ranks_with_other_base_models_are_refused_before_weights_are_read(
    trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older commit in the cache of one host: parts of two models would be joined."""
    monkeypatch.setattr(load, "load_model", None)
    save_tiny_llama(tmp_path, seed=1)
    model = trained.config.model.model_copy(update={"name_or_path": str(tmp_path)})
    other = trained.config.model_copy(update={"model": model})
    (told,) = refusals(
        2, lambda w: load.load_base(other if w.rank else trained.config, world=w, base="whole")
    )
    assert re.search(r"Rank 1 .* in base weights \(.*same base model", told)
