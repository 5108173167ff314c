"""A tokenizer's chat template is a stranger's program: it runs in a sandbox or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError
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
