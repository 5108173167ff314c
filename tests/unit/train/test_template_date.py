"""The day that a chat template sees is the one on which a run, or a corpus, was begun."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path

import pytest
import yaml
from support.corpora import content

from lope_dist.model.build import load_tokenizer
from lope_dist.train.corpus_build import build_corpus
from lope_dist.train.premises import data

TEMPLATE = (
    "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.role + ':' + m.content }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@pytest.fixture
def config(tiny_config, tiny_llama: Path, tmp_path: Path):
    model = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATE}))
    return tiny_config(model__name_or_path=str(model), data__template="chat")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch):
    """Return a function that sets today."""

    def set_today(day: str) -> None:
        class Today(date):
            @classmethod
            def today(cls) -> date:
                return date.fromisoformat(day)

        monkeypatch.setattr(data, "date", Today)

    return set_today


def test_a_run_that_goes_on_sees_the_day_that_it_was_begun(config, on) -> None:
    tokenizer = load_tokenizer(config.model)
    on("2020-02-29")
    begun = data.dated(config, tokenizer)
    assert begun.data.template_date == "2020-02-29"
    Path(config.output_dir).mkdir(parents=True)
    recorded = yaml.safe_dump(begun.model_dump(mode="json"))
    (Path(config.output_dir) / "run.yaml").write_text(recorded)
    on("2020-03-01")
    assert data.dated(config, tokenizer) == begun
    tokenizer.chat_template = "no date"
    assert data.dated(config, tokenizer).data.template_date is None


def test_a_corpus_that_goes_on_is_built_of_the_day_that_it_was_begun(config, on, tmp_path) -> None:
    for day, node in (("2020-02-29", 0), ("2020-03-01", 1), ("2020-03-02", 0)):
        on(day)
        build_corpus(
            config, tmp_path / "two", shard_examples=4, node_rank=node, num_nodes=2, progress=False
        )
    on("2020-02-29")
    build_corpus(config, tmp_path / "one", shard_examples=4, progress=False)
    two, one = content(tmp_path / "two"), content(tmp_path / "one")
    assert two == {name: one[name] for name in two}
