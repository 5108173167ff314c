import os
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from lope_dist.config.data import DataConfig
from lope_dist.config.noise import DataNoiseConfig, NoiseConfig, TextNoiseConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role
from lope_dist.corpus.examples.source import open_source
from lope_dist.corpus.feed.loader import batches_of
from lope_dist.corpus.tokens.encode import IGNORED

TEXT_STAGE = StageConfig(trainable=(Role.SHARED_A,), epochs=2, noise="text")


def by_example(batches):
    """Return example id -> (tokens, labels, keys), whatever rows they stand in."""
    found = {}
    for batch in batches:
        real = batch.noise_mask.bool()
        ids, labels, keys = (
            t[real].tolist()
            for t in (batch.inputs["input_ids"], batch.labels, batch.token_keys["decoder"])
        )
        if "position_ids" in batch.inputs:
            starts = (batch.inputs["position_ids"][real] == 0).nonzero().flatten().tolist()
        else:
            lengths = real.sum(1).tolist()
            starts = [0, *np.cumsum(lengths[:-1]).tolist()]
        ends = [*starts[1:], len(ids)]
        for example_id, start, end in zip(batch.example_ids, starts, ends, strict=True):
            assert example_id not in found
            found[example_id] = (ids[start:end], labels[start:end], keys[start:end])
    return found


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("packing", [True, False])
def test_ranks_share_every_step_without_overlap(make_loader, world_size, packing):
    """22 examples, 6 a step: the last batch of an epoch has 4, so a rank of 7 gets none."""
    ranks = [
        make_loader(rank=rank, world_size=world_size, data={"packing": packing})
        for rank in range(world_size)
    ]
    reference = make_loader()
    assert reference.num_steps == 8
    for step in range(8):
        everyone = reference.example_ids(step)
        assert len(everyone) == (4 if step % 4 == 3 else 6)
        parts = [by_example(loader.micro_batches(step)) for loader in ranks]
        assert sorted(i for part in parts for i in part) == sorted(everyone)
        for rank, (loader, part) in enumerate(zip(ranks, parts, strict=True)):
            assert loader.example_ids(step) == everyone
            assert set(part) == set(everyone[rank::world_size])


def test_an_epoch_visits_every_example_once_in_its_own_order(make_loader):
    loader = make_loader()
    epochs = [[i for s in range(4) for i in loader.example_ids(e * 4 + s)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(22))
    assert epochs[0] != epochs[1]
    assert epochs[0] != list(range(22))
    other = make_loader(seed=1)
    assert other.example_ids(0) != loader.example_ids(0)
    plain = make_loader(data={"shuffle": False})
    assert plain.example_ids(5) == list(range(6, 12))


def test_what_an_example_becomes_depends_on_seed_and_epoch_alone(make_loader):
    noise = NoiseConfig(text=TextNoiseConfig(rate=0.3), data=DataNoiseConfig(rate=0.1))
    common = {"noise": noise, "stage": TEXT_STAGE}

    def epoch(number, **changes):
        found = {}
        world = changes.pop("world_size", 1)
        for rank in range(world):
            loader = make_loader(rank=rank, world_size=world, **common, **changes)
            steps = loader.num_steps // 2
            for step in range(number * steps, (number + 1) * steps):
                found |= by_example(loader.micro_batches(step))
        return found

    reference = epoch(0)
    assert set(reference) == set(range(22))
    assert epoch(0, world_size=3) == reference
    assert epoch(0, global_batch=5, micro_batch=1) == reference
    assert epoch(0, data={"packing": False}) == reference
    assert epoch(0, data={"shuffle": False}) == reference
    fewer = epoch(0, count=18)  # the other examples are not there
    assert fewer[17] == reference[17]
    assert all(epoch(1)[i][0] != reference[i][0] for i in (17, 3))
    assert epoch(0, seed=2)[17] != reference[17]


def test_a_step_is_the_same_whenever_it_is_asked_for(make_loader):
    first, again = make_loader(stage=TEXT_STAGE), make_loader(stage=TEXT_STAGE)
    for step in range(5):
        first.micro_batches(step)
    (one, *_), (two, *_) = first.micro_batches(5), again.micro_batches(5)
    assert torch.equal(one.inputs["input_ids"], two.inputs["input_ids"])
    assert torch.equal(one.token_keys["decoder"], two.token_keys["decoder"])


def test_text_noise_is_injected_in_its_stages_alone(make_loader):
    def tokens(kind, **changes):
        stage = StageConfig(trainable=(Role.SHARED_A,), noise=kind)
        return by_example(make_loader(stage=stage, **changes).micro_batches(0))

    clean = tokens("none")
    assert tokens("embedding") == clean
    assert tokens("text") == tokens("hybrid") != clean
    data_only = NoiseConfig(data=DataNoiseConfig(rate=0.3))
    assert tokens("none", noise=data_only) != clean


def test_rows_and_micro_batches_keep_their_sizes(make_loader):
    for packing in (True, False):
        loader = make_loader(global_batch=22, data={"packing": packing})
        batches = loader.micro_batches(0)
        assert all(len(b.labels) <= 2 for b in batches)
        assert all(len(b.labels) == 2 for b in batches[:-1])
        assert max(b.labels.shape[1] for b in batches) <= 512
        num_rows = sum(len(b.labels) for b in batches)
        assert num_rows < 15 if packing else num_rows == 22
        for batch in batches:
            assert batch.num_target_tokens == int((batch.labels[:, 1:] != IGNORED).sum())
            assert batch.noise_mask.any(0)[-1]  # no column of padding alone


def test_rows_of_a_micro_batch_are_of_like_length(make_loader):
    batches = make_loader(global_batch=22, data={"packing": False}).micro_batches(1)
    lengths = [batch.noise_mask.sum(1).tolist() for batch in batches]
    assert len(batches) > 3
    assert [*chain(*lengths)] == sorted(chain(*lengths), reverse=True)
    assert lengths[0][0] > lengths[-1][-1]


def test_targets_of_a_step_do_not_depend_on_the_split(make_loader):
    def total(**changes):
        world = changes.pop("world_size", 1)
        loaders = [make_loader(rank=r, world_size=world, **changes) for r in range(world)]
        return sum(b.num_target_tokens for loader in loaders for b in loader.micro_batches(2))

    assert total() == total(world_size=4) == total(micro_batch=1, data={"packing": False}) > 0


def test_max_steps(make_loader):
    stage = StageConfig(trainable=(Role.SHARED_A,), epochs=3, max_steps=5)
    assert make_loader(stage=stage).num_steps == 5
    longer = stage.model_copy(update={"max_steps": 100})
    assert make_loader(stage=longer).num_steps == 12
    with pytest.raises(AssertionError):
        make_loader(stage=stage).example_ids(5)


def test_cut_examples_are_kept_and_counted_once(make_loader):
    loader = make_loader(data={"max_length": 64}, global_batch=22)
    for _, batches in batches_of(loader):
        assert sorted(i for b in batches for i in b.example_ids) == list(range(22))
    assert loader.num_cut == 22
    assert all(b.num_target_tokens == 0 for b in batches)
    assert make_loader().num_cut == 0


def test_cut_examples_of_two_ranks_add_up_over_epochs(make_loader):
    stage = StageConfig(trainable=(Role.SHARED_A,), epochs=2)
    counts = []
    for rank in range(2):
        shape = {"rank": rank, "world_size": 2, "stage": stage, "global_batch": 5}
        loader = make_loader(data={"max_length": 64}, **shape)
        list(batches_of(loader))
        counts.append(loader.num_cut)
    assert sum(counts) == 22


@pytest.mark.parametrize("packing", [True, False])
def test_filler_has_no_content(make_loader, packing):
    loader = make_loader(data={"packing": packing})
    filler, batch = loader.filler(), loader.micro_batches(0)[0]
    assert filler.inputs.keys() == batch.inputs.keys()
    assert len(filler.labels) == 1
    assert (filler.labels == IGNORED).all()
    assert (filler.num_tokens, filler.num_target_tokens) == (0, 0)


def test_encoder_decoder(make_loader, tokenizer):
    keys = {"decoder_start_token_id": tokenizer.pad_token_id}
    loader = make_loader(data={"packing": False}, **keys)
    batches = loader.micro_batches(0)
    assert sorted(i for b in batches for i in b.example_ids) == sorted(loader.example_ids(0))
    assert batches[0].token_keys.keys() == {"encoder", "decoder"}
    assert batches[0].labels.shape == batches[0].inputs["decoder_input_ids"].shape
    labels = batches[0].labels[0]
    text = tokenizer.decode(labels[labels != IGNORED])
    assert text.startswith(f"Answer number {batches[0].example_ids[0]} is ")
    assert text.endswith("enough<|im_end|>")
    assert loader.filler().inputs.keys() == batches[0].inputs.keys()
    with pytest.raises(LopeError, match=r"set data\.packing=false"):
        make_loader(data={"packing": True}, **keys)


def test_bad_operations_and_templates_are_refused_at_once(make_loader, tokenizer):
    noise = NoiseConfig(text=TextNoiseConfig(operations=("word_ordr",)))
    with pytest.raises(LopeError, match=r"noise\.text\.operations.*'word_order'"):
        make_loader(noise=noise)
    tokenizer.chat_template = None
    with pytest.raises(LopeError, match=r"data\.template = 'chat'.*data\.template=alpaca"):
        make_loader(data={"template": "chat"})


def test_fingerprint_covers_what_decides_the_data_and_nothing_else(make_loader):
    reference = make_loader().fingerprint
    same = (
        {"rank": 1, "world_size": 3},
        {"micro_batch": 1, "data": {"packing": False}},
        {"noise": NoiseConfig(text=TextNoiseConfig(rate=0.9))},  # this stage injects none
    )
    for changes in same:
        assert make_loader(**changes).fingerprint == reference
    different = (
        {"seed": 1},
        {"count": 21},
        {"global_batch": 7},
        {"data": {"template": "chat"}},
        {"data": {"max_length": 100}},
        {"data": {"shuffle": False}},
        {"stage": TEXT_STAGE},
        {"noise": NoiseConfig(data=DataNoiseConfig(rate=0.1))},
    )
    prints = {make_loader(**changes).fingerprint for changes in different}
    assert len(prints | {reference}) == 1 + len(different)


def test_alpaca_as_published(make_loader):
    """Real rows, where they are at hand."""
    root = Path(__file__).parents[3]
    folder = Path(os.environ.get("LOPE_DATA", root / "../shared/data"))
    path = folder / "train/alpaca_random.parquet"
    if not path.is_file():
        pytest.skip(f"{path} is not there; LOPE_DATA names the folder that holds it")
    with pytest.raises(LopeError, match=r"allow_empty_response"):
        open_source(DataConfig(path=str(path), max_examples=5200))
    loader = make_loader(
        data={
            "path": str(path), "max_examples": 5200, "max_length": 4096,
            "allow_empty_response": True,
        },
        stage=TEXT_STAGE,
        global_batch=32,
        micro_batch=4,
    )  # fmt: skip
    assert loader.num_steps == 2 * 163
    batches = loader.micro_batches(0)
    assert sorted(i for b in batches for i in b.example_ids) == sorted(loader.example_ids(0))
    assert all(b.num_target_tokens > 0 for b in batches)
