"""What ranks must have the same of before they train, and what may be of a host."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.thread_ranks import on_ranks, refusals
from support.tiny import save_alpaca, save_tiny_llama

from lope_dist.config.schema import RunConfig
from lope_dist.engine.world import World
from lope_dist.model.build import architecture, load_tokenizer
from lope_dist.model.fingerprint import fingerprints
from lope_dist.train.premises.data import open_parts
from lope_dist.train.run.same_inputs import refuse_other_inputs
from lope_dist.train.run.setup import Inputs

Maker = Callable[..., RunConfig]


@pytest.fixture
def make(config_in, tmp_path: Path) -> Maker:
    """Return a maker of a host's configuration: its model and its rows are on its own disk."""

    def make(host: str, **changes: Any) -> RunConfig:
        disk = tmp_path / host
        if not disk.exists():
            disk.mkdir()
            save_tiny_llama(disk / "model")
            save_alpaca(disk / "rows.jsonl", 12)
            save_alpaca(disk / "held_out.jsonl", 5)
        of_host = {
            "model__name_or_path": str(disk / "model"),
            "data__path": str(disk / "rows.jsonl"),
            "data__validation": {"path": str(disk / "held_out.jsonl")},
        }
        return config_in(disk / "run", **of_host | changes)

    return make


def inputs_of(config: RunConfig) -> dict[str, Any]:
    """Return what a rank has read before it meets the others."""
    tokenizer = load_tokenizer(config.model)
    source, validation = open_parts(config, tokenizer, architecture(config.model))
    prints = fingerprints(config.model, tokenizer)
    return {
        "config": config,
        "source": source,
        "validation": validation,
        "fingerprints": prints,
    }


def compare(configs: list[RunConfig]) -> Callable[[World], None]:
    """Return what ranks with these configurations do."""
    of_ranks = [inputs_of(config) for config in configs]
    return lambda world: refuse_other_inputs(
        cast(Inputs, SimpleNamespace(**of_ranks[world.rank], world=world))
    )


def told(*configs: RunConfig) -> str:
    """Return the sentence that the ranks end with, all of them."""
    (sentence,) = refusals(len(configs), compare([*configs]))
    return sentence


def test_equal_copies_on_the_disk_of_each_host_are_the_same(make: Maker) -> None:
    configs = [make("a"), make("b", data__workers=2)]
    assert configs[0].data.path != configs[1].data.path
    assert on_ranks(2, compare(configs)) == [None, None]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"train__stages__finetune__lr": 0.5}, "train.stages.finetune.lr (0.5, there 0.01)"),
        ({"train__checkpoint__every_steps": 7}, "train.checkpoint.every_steps (7, there "),
        ({"engine__timeout_s": 7}, "engine.timeout_s"),
        ({"data__max_length": 500}, "data.max_length (500, there "),
        ({"data__validation": None}, "rows for validation (null, there "),
    ],
)
def test_another_recipe_on_a_host_is_named_by_its_key(
    make: Maker, changes: dict[str, Any], part: str
) -> None:
    sentence = told(make("a"), make("b", **changes))
    assert sentence.startswith("Rank 1 (on ")
    assert part in sentence
    assert sentence.endswith("equal copies.")


def mend_a_row(disk: Path) -> None:
    path = disk / "rows.jsonl"
    path.write_text(path.read_text().replace("Add", "Sum", 1))


def drop_a_row(disk: Path) -> None:
    path = disk / "rows.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def mend_a_held_out_row(disk: Path) -> None:
    path = disk / "held_out.jsonl"
    path.write_text(path.read_text().replace("Add", "Sum", 1))


def take_another_commit(disk: Path) -> None:
    shutil.rmtree(disk / "model")
    save_tiny_llama(disk / "model", seed=1)


def set_another_template(disk: Path) -> None:
    path = disk / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "{{ 1 }}"}))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (mend_a_row, "rows for training"),
        (drop_a_row, "rows for training"),
        (mend_a_held_out_row, "rows for validation"),
        (take_another_commit, "base weights"),
        (set_another_template, "tokenizer"),
    ],
)
def test_another_content_on_a_host_is_named(
    make: Maker, tmp_path: Path, change: Callable[[Path], None], part: str
) -> None:
    one, other = make("a"), make("b")
    change(tmp_path / "b")
    sentence = told(one, other)
    assert f" in {part} (" in sentence
    assert sentence.count(", there ") == 1, "nothing else differs"


def test_ranks_that_began_on_different_days_are_told_the_key(make: Maker) -> None:
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    chat = {"data__template": "chat", "model__chat_template": template}
    days = ("a", "2026-01-31"), ("b", "2026-02-01")
    configs = [make(host, **chat, data__template_date=day) for host, day in days]
    assert ' in data.template_date ("2026-02-01", there "2026-01-31"); ' in told(*configs)
    assert told(*configs).endswith(" set data.template_date=DAY.")
