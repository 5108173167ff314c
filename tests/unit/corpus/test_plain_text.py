"""Plain text and several sources, from files to the tensors of a step."""

from collections import Counter

import numpy as np
import pytest
from support.row_files import write_rows
from tokenizers import processors

from lope_dist.config.data import DataConfig
from lope_dist.config.noise import DataNoiseConfig, NoiseConfig
from lope_dist.corpus.examples.source import open_source
from lope_dist.corpus.rows.turns import Example, Turn
from lope_dist.corpus.tokens.encode import IGNORED, encode
from lope_dist.corpus.tokens.prompts import Form, Piece, render


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("One document.\nAnother one\n")
    return str(path)


def only_batch(loader):
    (batch,) = loader.micro_batches(0)
    return batch


@pytest.mark.parametrize("template", ["alpaca", "chat"])
def test_plain_text_is_in_no_template(tokenizer, text_file, template):
    source = open_source(DataConfig(path=text_file))
    assert render(source[0], Form(tokenizer, template, 4096)) == [
        Piece("One document.<|im_end|>", True)
    ]


@pytest.mark.parametrize("template", ["alpaca", "chat"])
@pytest.mark.parametrize("has_start", [False, True])
def test_all_of_a_document_is_learnt(make_loader, tokenizer, text_file, template, has_start):
    """Behind the token that the tokenizer begins texts with, where it has one."""
    start = []
    if has_start:
        start = [tokenizer.convert_tokens_to_ids("<|im_start|>")]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", start[0])]
        )
    data = {"path": text_file, "template": template, "shuffle": False, "packing": False}
    batch = only_batch(make_loader(data=data))
    for row, text in enumerate(("One document.", "Another one")):
        real = batch.noise_mask[row].bool()
        ids, labels = (
            batch.inputs["input_ids"][row][real].tolist(),
            batch.labels[row][real].tolist(),
        )
        written = tokenizer(text + "<|im_end|>", add_special_tokens=False)["input_ids"]
        assert ids == start + written
        assert labels == [IGNORED, *(start + written)[1:]], "nothing stands before the first"


def test_an_encoder_decoder_writes_a_document_from_nothing(make_loader, tokenizer, text_file):
    data = {"path": text_file, "packing": False, "shuffle": False}
    batch = only_batch(make_loader(data=data, decoder_start_token_id=0))
    assert tokenizer.decode(batch.labels[0][batch.labels[0] >= 0]) == "One document.<|im_end|>"
    assert batch.noise_mask.sum() == 0


def test_noise_of_responses_reaches_documents(make_loader, tokenizer, text_file):
    data = {"path": text_file, "shuffle": False, "packing": False}
    clean = only_batch(make_loader(data=data))
    changed = []
    for field in ("response", "instruction"):
        noise = NoiseConfig(data=DataNoiseConfig(rate=1.0, fields=(field,)))
        batch = only_batch(make_loader(data=data, noise=noise))
        changed.append(batch.labels.tolist() != clean.labels.tolist())
    assert changed == [True, False]


@pytest.fixture
def two_sources(tmp_path, rows):
    plain = [{"text": f"document {i}"} for i in range(6)]
    a, b = write_rows(tmp_path / "a.csv", rows), write_rows(tmp_path / "b.parquet", plain)

    def config(first=2.0, second=0.5, **keys):
        sources = ({"path": str(a), "weight": first}, {"path": str(b), "weight": second})
        if second is None:
            del sources[1]["weight"]
        return {"path": None, "sources": sources, **keys}

    return config


@pytest.mark.parametrize("world_size", [1, 3])
def test_weights_decide_how_often_an_epoch_visits_a_source(make_loader, two_sources, world_size):
    loaders = [
        make_loader(data=two_sources(), rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    per_epoch = -(-(2 * 7 + 3) // 6)
    assert loaders[0].num_steps == 2 * per_epoch
    epochs = []
    for epoch in range(2):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        wanted = Counter(i for step in steps for i in loaders[0].example_ids(step))
        seen = Counter(
            i
            for loader in loaders
            for step in steps
            for batch in loader.micro_batches(step)
            for i in batch.example_ids
        )
        assert seen == wanted
        assert all(wanted[i] == 2 for i in range(7))
        epochs.append({i for i in wanted if i >= 7})
    assert [len(half) for half in epochs] == [3, 3]
    assert epochs[0] | epochs[1] == set(range(7, 13))


def test_weights_are_part_of_what_decides_a_step(make_loader, two_sources):
    prints = [
        make_loader(data=two_sources(*weights)).fingerprint
        for weights in ((1, 1), (2, 0.5), (2, 1), (2.0, 0.5), (2, None))
    ]
    assert len(set(prints)) == 3
    assert prints[1] == prints[3]
    assert prints[2] == prints[4]
    order = make_loader(data=two_sources(1, 1))
    assert np.unique([i for step in range(3) for i in order.example_ids(step)]).size == 13


def test_rendered_text_gets_no_second_start(tokenizer):
    """From a tokenizer that puts one before every text."""
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    texts = ["<|im_start|>user\nHi<|im_end|>\n", "plain"]
    rows = [Example(0, (Turn("assistant", text),), is_plain=True) for text in texts]
    for row in encode(rows, Form(tokenizer, "chat", 99)):
        assert (row.input_ids[0], row.input_ids.count(start)) == (start, 1)
