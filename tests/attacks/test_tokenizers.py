"""A tokenizer's regular expressions are a stranger's program: they end, or the run does."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.quick import quick
from transformers import AutoTokenizer

from lope_dist.core.errors import LopeError
from lope_dist.corpus.examples import survey
from lope_dist.corpus.examples.source import open_source
from lope_dist.corpus.tokens import slow_text
from lope_dist.corpus.tokens.prompts import Form

BOMB = "a*a*a*c"
"""Of the fourth power of how many `a` stand before what is no `c`."""
SLOW = ("a" * 200 + "!c") * 12
FAILS = ("(?:a|aa)+c", "a" * 60 + "!c")
"""So many ways that the library gives up."""


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    """Wait for what the bound leaves behind: its processor time is this process's."""
    yield
    for thread in set(threading.enumerate()) - {threading.current_thread()}:
        if thread.daemon and "work" in thread.name:
            thread.join()


def model_with(regex: str, where: str, base: Path, folder: Path) -> Path:
    """Copy a model, with a regular expression in its tokenizer."""
    shutil.copytree(base, folder)
    path = folder / "tokenizer.json"
    tree: dict[str, Any] = json.loads(path.read_text())
    pattern = {"Regex": regex}
    if where == "normalizer":
        tree[where] = {"type": "Replace", "pattern": pattern, "content": "x"}
    else:
        split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        tree[where] = {"type": "Sequence", "pretokenizers": [split, tree[where]]}
    path.write_text(json.dumps(tree))
    return folder


PLACES = ("normalizer", "pre_tokenizer")


@pytest.mark.parametrize(
    ("where", "processes", "regex", "text"),
    quick(
        [
            (where, processes, *bomb)
            for where in PLACES
            for processes in (1, 2)
            for bomb in ((BOMB, SLOW), FAILS)
        ],
        *((where, processes, *FAILS) for where in PLACES for processes in (1, 2)),
        ("pre_tokenizer", 1, BOMB, SLOW),
        ("normalizer", 2, BOMB, SLOW),
    ),
)
def test_a_row_that_is_a_bomb_is_named(
    where: str,
    processes: int,
    regex: str,
    text: str,
    tiny_llama: Path,
    tiny_config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slow_text, "_MOST_S", 0.5)
    monkeypatch.setattr(slow_text, "_SLOWEST", 1e6)
    if processes > 1:
        monkeypatch.setattr(survey, "_ALONE", 1)
        monkeypatch.setattr(survey, "_CHUNK", 4)
        monkeypatch.setattr(survey.os, "sched_getaffinity", lambda _: {0, 1})
    rows = [{"instruction": "hello", "input": "", "output": "world"} for _ in range(12)]
    rows[9]["output"] = text
    path = tmp_path / "bomb.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = model_with(regex, where, tiny_llama, tmp_path / "model")
    config = tiny_config(data__path=str(path))
    form = Form.of(config.data, AutoTokenizer.from_pretrained(model), is_encoder_decoder=False)
    begin = time.process_time()
    with pytest.raises(LopeError, match=rf"^{path}, line 10: The tokenizer (takes|fails)"):
        open_source(config.data, form)
    assert time.process_time() - begin < 30
