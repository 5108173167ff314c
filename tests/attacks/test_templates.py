"""A tokenizer's chat template is a stranger's program: it runs in a sandbox or not at all."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from lope_dist.core.errors import LopeError
from lope_dist.corpus.rows.turns import RowError
from lope_dist.corpus.tokens import template_source
from lope_dist.corpus.tokens.template_source import TemplateSource
from lope_dist.train.session import train

ATTACKS = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch MARK') }}",
    "{{ messages.append(messages[0]) }}{% for m in messages %}{{ m }}{% endfor %}",
    "{% include '/etc/passwd' %}",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_ends_the_run_with_a_sentence(
    tiny_llama: Path, tiny_config, tmp_path: Path, mark: Path, attack: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"chat_template": attack.replace("MARK", str(mark))}))
    config = tiny_config(model__name_or_path=str(folder), data__template="chat")
    with pytest.raises(LopeError, match="chat template"):
        train(config)
    assert not (Path(config.output_dir) / "checkpoints").exists()


ENDLESS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)
HUGE = "{{ ('x' * 10 ** 10) | length }}"  # more than garbage of other tests can make room for
BOMBS = (
    ENDLESS,
    HUGE,
    "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}x"
    "{% endfor %}{% endfor %}{% endfor %}",
    "{{ 'x' * 10 ** 10 }}",
    "{{ '%10000000000s' % 'x' }}",
    "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "{% macro m(n) %}{% for i in range(9) %}{{ m(n) if n else i }}{{ m(n - 1) }}{% endfor %}"
    "{% endmacro %}{{ m(99) }}",
)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_ends_with_a_sentence(
    tiny_llama: Path, bomb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bomb != HUGE:  # to fill the memory may take longer
        monkeypatch.setattr(template_source, "_MOST_SECONDS", 1.0)
    monkeypatch.setattr(template_source, "_MOST_MIB", 256)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    messages = [{"role": "user", "content": "a"}]
    tokenizer.chat_template = bomb
    begin = time.process_time()
    # The others may end in several ways.
    said = {ENDLESS: "takes more than 1 s", HUGE: "takes more than 256 MiB"}.get(bomb, "")
    with pytest.raises((LopeError, RowError), match=said):
        TemplateSource(tokenizer, {}, None).apply(messages, None, is_prompt=True)
    assert time.process_time() - begin < 20
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    honest = TemplateSource(tokenizer, {}, None)
    assert honest.apply(messages, None, is_prompt=True) == "a", "what was bounded is free again"
