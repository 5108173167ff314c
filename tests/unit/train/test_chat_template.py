"""`model.chat_template`: a template of one's own takes the place of the tokenizer's everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from lope_dist.config.model import ModelConfig
from lope_dist.config.schema import RunConfig
from lope_dist.corpus.tokens.prompts import Form, render
from lope_dist.evaluate.harness.arguments import tokenizer_with
from lope_dist.model.build import architecture, load_tokenizer, read_tokenizer
from lope_dist.train.premises.data import open_parts

TEMPLATE = (
    "{% for m in messages %}<<{{ m.role }}>>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<<assistant>>{% endif %}"
)


@pytest.fixture
def own(tiny_config) -> RunConfig:
    return tiny_config(data__template="chat", model__chat_template=TEMPLATE)


def test_examples_are_rendered_by_it(own: RunConfig) -> None:
    tokenizer = load_tokenizer(own.model)
    training, _ = open_parts(own, tokenizer, architecture(own.model))
    pieces = render(training[0], Form.of(own.data, tokenizer, is_encoder_decoder=False))
    prompt, answer = ("".join(p.text for p in pieces if p.is_target is t) for t in (False, True))
    assert prompt.startswith("<<user>>")
    assert prompt.endswith("<<assistant>>")
    assert answer.endswith(tokenizer.eos_token)


def test_a_saved_tokenizer_has_it(own: RunConfig, tmp_path: Path) -> None:
    read_tokenizer(Path(own.model.name_or_path), own.model).save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == TEMPLATE


def test_tasks_are_asked_by_it(own: RunConfig) -> None:
    tokenizer = load_tokenizer(own.model)
    again = tokenizer_with({"add_bos_token": False}, tokenizer, own.model)
    assert again.chat_template == tokenizer.chat_template == TEMPLATE


def test_a_file_becomes_its_text(tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(TEMPLATE)
    config = ModelConfig(name_or_path="x", chat_template=str(file))
    file.unlink()  # a resume elsewhere has no such file
    assert ModelConfig(**config.model_dump()).chat_template == TEMPLATE


def test_a_file_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"none\.jinja' cannot be read"):
        ModelConfig(name_or_path="x", chat_template=str(tmp_path / "none.jinja"))


def test_without_the_chat_form_it_is_refused(own: RunConfig) -> None:
    tree = own.model_dump(mode="json")
    tree["data"]["template"] = "alpaca"
    with pytest.raises(ValidationError, match="chat_template has no effect"):
        RunConfig.model_validate(tree)
