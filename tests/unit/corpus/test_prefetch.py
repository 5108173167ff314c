"""Batches are the same from a built corpus as on the fly, and for any number of workers."""

import os
import signal
import time
from dataclasses import fields

import pytest
import torch
from support.quick import quick
from support.tiny import small_llama

from lope_dist.config.train import StageConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role
from lope_dist.corpus.built.build import build
from lope_dist.corpus.built.manifest import SHARDS
from lope_dist.corpus.feed.loader import batches_of

from .conftest import NOISE

STAGES = {
    kind: StageConfig(trainable=(Role.SHARED_A,), epochs=2, noise=kind) for kind in ("none", "text")
}


def same(first, second):
    """Assert that two micro-batches are equal in every field, tensor by tensor."""
    for field in fields(first):
        mine, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(mine, dict):
            assert mine.keys() == other.keys()
            for name in mine:
                assert torch.equal(mine[name], other[name]), (field.name, name)
                assert mine[name].dtype == other[name].dtype
        elif isinstance(mine, torch.Tensor):
            assert torch.equal(mine, other), field.name
        else:
            assert mine == other, field.name


def assert_same(first, second):
    first, second = list(first), list(second)
    assert [step for step, _ in first] == [step for step, _ in second]
    for (_, mine), (_, other) in zip(first, second, strict=True):
        assert len(mine) == len(other)
        for a, b in zip(mine, other, strict=True):
            same(a, b)


@pytest.fixture
def corpus(make_recipe, tmp_path):
    folder = tmp_path / "corpus"
    build(make_recipe(), folder, progress=False)
    return str(folder)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("world_size", quick([1, 2, 3, 4], 3))
def test_a_built_corpus_gives_the_batches_of_the_fly(
    make_loader, corpus, stage, world_size, packing
):
    """22 examples, 6 a step: the last steps of both epochs have 4."""
    for rank in range(world_size):
        common = {"rank": rank, "world_size": world_size, "stage": stage, "noise": NOISE}
        data = {"max_length": 240, "packing": packing}
        fresh = make_loader(data=data, **common)
        built = make_loader(data=data | {"corpus": corpus}, **common)
        assert built.fingerprint == fresh.fingerprint
        assert_same(batches_of(fresh), batches_of(built))
        assert built.num_cut == fresh.num_cut


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("is_built", [True, False])
def test_workers_change_nothing(make_loader, corpus, workers, is_built):
    common = {"stage": STAGES["text"], "noise": NOISE, "rank": 1, "world_size": 2}
    data = {"max_length": 240} | ({"corpus": corpus} if is_built else {})
    alone, helped = make_loader(data=data, **common), make_loader(data=data, **common)
    assert_same(batches_of(alone), batches_of(helped, workers=workers))
    assert helped.num_cut == alone.num_cut > 0


def test_a_stop_needs_no_state_but_the_step(make_loader):
    common = {"stage": STAGES["text"], "noise": NOISE}
    whole = list(batches_of(make_loader(**common)))
    for workers in (0, 3):
        begun = batches_of(make_loader(**common), workers=workers)
        before = [next(begun) for _ in range(3)]
        begun.close()  # stopped between two steps
        rest = batches_of(make_loader(**common), first_step=3, workers=workers)
        assert_same([*before, *rest], whole)


def test_no_workers_are_left(make_loader):
    batches = batches_of(make_loader(), workers=2)
    next(batches)
    children = set(children_of(os.getpid()))
    assert len(children) >= 2
    batches.close()
    end = time.monotonic() + 20
    while children & set(children_of(os.getpid())):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_dead_worker_is_told_and_hangs_nobody(make_loader):
    loader = make_loader()
    original = loader.micro_batches

    def micro_batches(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(step)

    loader.micro_batches = micro_batches
    batches = batches_of(loader, workers=1)
    with pytest.raises(LopeError, match=r"data\.workers = 1 ") as caught:
        list(batches)
    assert caught.value.status == 69, "the supervisor resumes the run"


def test_an_error_in_a_worker_arrives_as_itself(make_loader, corpus):
    loader = make_loader(noise=NOISE, data={"max_length": 240, "corpus": corpus})
    path = f"{corpus}/{SHARDS}/clean-000002.arrow"
    with open(path, "r+b") as file:
        file.seek(-20, os.SEEK_END)
        file.write(b"\0" * 20)
    with pytest.raises(LopeError, match=r"clean-000002\.arrow"):
        list(batches_of(loader, workers=2))


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 1}, r"different: seed \(614 there, 1 here\)\. Build one"),
        ({"count": 21}, r"data\.path .*\(22 there, 21"),
        ({"data": {"max_length": 200}}, r"different: data\.max_length \(240 there, 200 here\)\."),
        ({"data": {"template": "chat"}}, r"data\.template, .* \('alpaca' there"),
        (
            {"noise": NOISE.model_copy(update={"text": NOISE.data})},
            r"different: noise\.text \(",
        ),
        (
            {"noise": NOISE.model_copy(update={"data": type(NOISE.data)()})},
            r"noise\.data",
        ),
        (
            {"stage": StageConfig(trainable=(Role.SHARED_A,), epochs=3, noise="text")},
            r"noisy-2",
        ),
    ],
)
def test_a_corpus_of_another_run_is_refused(make_loader, corpus, changes, told):
    data = {"max_length": 240, "corpus": corpus} | changes.pop("data", {})
    with pytest.raises(LopeError, match=told):
        make_loader(data=data, **({"stage": STAGES["text"], "noise": NOISE} | changes))


def test_another_tokenizer_is_refused(make_loader, corpus, tokenizer):
    tokenizer.add_tokens(["Question"])
    with pytest.raises(LopeError, match=r"model\.name_or_path"):
        make_loader(noise=NOISE, data={"max_length": 240, "corpus": corpus})


def test_a_clean_stage_asks_for_no_text_noise(make_loader, corpus):
    other = NOISE.model_copy(update={"text": NOISE.data})
    loader = make_loader(
        noise=other, stage=STAGES["none"], data={"max_length": 240, "corpus": corpus}
    )
    assert loader.num_steps == 8


def test_no_corpus_or_a_part_of_one_is_refused(make_loader, make_recipe, tmp_path, corpus):
    for folder, told in ((tmp_path / "none", "holds no corpus"), (tmp_path / "part", "finished")):
        if told == "finished":
            build(make_recipe(), folder, num_nodes=2, progress=False)
        with pytest.raises(LopeError, match=told):
            make_loader(noise=NOISE, data={"max_length": 240, "corpus": str(folder)})
    os.truncate(f"{corpus}/{SHARDS}/noisy-0-000000.arrow", 100)
    with pytest.raises(LopeError, match=r"noisy-0-000000\.arrow.*100"):
        make_loader(noise=NOISE, data={"max_length": 240, "corpus": corpus})


def test_each_rank_reads_only_its_examples(make_loader, corpus, monkeypatch):
    """Shards of 5 in order: rank 0 of 2 in the first step needs the first two shards alone."""
    data = {"max_length": 240, "corpus": corpus, "shuffle": False}
    loader = make_loader(noise=NOISE, data=data, rank=0, world_size=2)
    asked = []
    built = loader._provider
    original = built.rows
    monkeypatch.setattr(built, "rows", lambda view, ids: asked.extend(ids) or original(view, ids))
    loader.micro_batches(0)
    assert asked == [0, 2, 4]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_packed_rows_of_a_built_corpus_give_the_logits_of_single_examples(
    make_loader, make_recipe, tmp_path, attention
):
    model = small_llama(vocab_size=300, attn_implementation=attention)
    folder = tmp_path / "long"
    build(make_recipe(max_length=800), folder, progress=False)

    def batches(**data):
        data |= {"max_length": 800, "corpus": str(folder)}
        loader = make_loader(noise=NOISE, stage=STAGES["text"], micro_batch=1, data=data)
        return [(step, batch) for step, batches in batches_of(loader) for batch in batches]

    alone = {
        (step, *batch.example_ids): model(batch.inputs["input_ids"], use_cache=False).logits[0]
        for step, batch in batches(packing=False)
    }
    packed = batches(packing=True)
    assert max(len(batch.example_ids) for _, batch in packed) > 1
    for step, batch in packed:
        logits = model(**batch.inputs, use_cache=False).logits[batch.noise_mask.bool()]
        joined = torch.cat([alone[step, index] for index in batch.example_ids])
        torch.testing.assert_close(logits, joined, atol=1e-5, rtol=1e-5)
