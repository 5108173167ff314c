"""Mistakes that people make: the answer says where, what was given, what is allowed, what to do.

All of them in this process, on a recipe whose model is a description: no weights are read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from support.tiny import TINY_ARCHITECTURE as ARCHITECTURE

from lope_dist.cli import main

STUDY = "title: x\noutput_dir: s\nrecipe: r.yaml\nseeds: [1]\nvariants: {lope: {rows: [masked]}}\n"
GOOD = {"instruction": "q", "output": "a"}


def chat(*turns: tuple[str, str]) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


FILES = {
    "broken.yaml": "output_dir: run\nmodel:\n  name_or_path: x\n bad: [1\n",
    "tab.yaml": "output_dir: run\n\tmodel: x\n",
    "list.yaml": "- a\n",
    "twice.yaml": "output_dir: run\noutput_dir: other\n",
    "flat.yaml": "output_dir: run\nmodel: gpt2\ndata: {path: rows.jsonl}\ntrain: {}\n",
    "empty.yaml": "",
    "study.yaml": STUDY + "baseline: lope/masked\n",
    "unfit.yaml": STUDY + "baseline: lope/all\n",
}
ROWS = {
    "torn.jsonl": '{"instruction": "q", "output": "a"}\n{"instruction": \n',
    "short.jsonl": json.dumps(GOOD) + '\n{"instruction": "q"}\n',
    "foreign.jsonl": '{"question": "q", "reply": "a"}\n',
    "role.jsonl": json.dumps(chat(("narrator", "x"), ("assistant", "y"))) + "\n",
    "silent.jsonl": json.dumps(chat(("user", "x"))) + "\n",
    "number.jsonl": '{"instruction": 5, "output": "a"}\n',
    "empty.jsonl": "",
    "parts.jsonl": json.dumps(
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}
    )
    + "\n",
}

MISTAKES = {
    # of a recipe's keys: names of other tools, typos, types, values
    "check r.yaml train.stages.poisn.lr=1e-4": ["poisn", "poison, finetune", "Did you mean"],
    "check r.yaml adapter.targets=q_proj": ["adapter.targets", "'q_proj'", "write [q_proj]"],
    "check r.yaml train.learning_rate=1": ["learning_rate", "train.stages.STAGE.lr", "finetune"],
    "check r.yaml train.num_train_epochs=3": ["num_train_epochs", "train.stages.STAGE.epochs"],
    "check r.yaml train.per_device_train_batch_size=2": ["train.micro_batch", "Allowed there"],
    "check r.yaml train.report_to=wandb": ["report_to", "train.trackers"],
    "check r.yaml train.trackers=[wandbb]": ["train.trackers", "'wandbb'", "Did you mean 'wandb'"],
    "check r.yaml adapter.kind=dora": ["adapter.kind", "'dora'", "'lope', 'adalora'"],
    "check r.yaml adapter.rank=four": ["adapter.rank", "'four'", "whole number"],
    "check r.yaml adapter.rnk=4": ["'rnk' in adapter", "Did you mean 'rank'", "Allowed there"],
    "check r.yaml adapter.dropout=1.5": ["adapter.dropout", "1.5", "below 1"],
    "check r.yaml data.max_length=1": ["data.max_length", "1", "least is 8"],
    "check r.yaml data.packing=maybe": ["data.packing", "'maybe'", "true or false", "'auto'"],
    "check r.yaml model.quantization=int8": ["model.quantization", "'int8'", "'nf4' or 'none'"],
    "check r.yaml model.load_in_4bit=true": ["load_in_4bit", "model.quantization: nf4"],
    "check r.yaml model.dtype=bf16": ["model.dtype", "'bf16'", "Did you mean 'bfloat16'"],
    "check r.yaml engine.kind=fsdp": ["engine.kind", "'fsdp'", "'deepspeed' or 'local'"],
    "check r.yaml train.stages.finetune.trainable=[normal]": [
        "'normal'",
        "Did you mean 'normal_b'",
    ],
    "check r.yaml train.keep_best=masked": ["train.keep_best", "set data.validation.path"],
    "check r.yaml noise.text.operations=[typo]": ["noise.text.operations", "'typo'", "char_swap"],
    "check r.yaml data.columns.question=q": ["data", "columns", "instruction, output"],
    "check r.yaml data.columns={question: q}": ["'data.columns={question:'", "in quotes"],
    "check r.yaml adapter.rank": ["'adapter.rank'", "key.subkey=value"],
    # of files
    "check broken.yaml": ["broken.yaml", "line 4, column 2"],
    "check tab.yaml": ["tab.yaml", "line 2", "tab"],
    "check list.yaml": ["list.yaml", "mapping of keys"],
    "check twice.yaml": ["twice.yaml", "line 2", "duplicate key output_dir"],
    "check flat.yaml": ["flat.yaml", "model = 'gpt2'", "write its keys below"],
    "check empty.yaml": ["empty.yaml", "output_dir is required"],
    "check study.yaml": ["study.yaml is a study", "lope study run study.yaml"],
    "study run r.yaml": ["r.yaml is a recipe", "lope train r.yaml"],
    "study run unfit.yaml": ["baseline", "'lope/all'", "Did you mean 'lope/masked'"],
    "check qwen3_8": ["'qwen3_8'", "lope recipes", "Did you mean 'qwen3_8b'"],
    "recipes copy qwen3_8": ["'qwen3_8'", "lope recipes", "Did you mean 'qwen3_8b'"],
    # of commands
    "eval nowhere": ["'nowhere'", "run.yaml", "lope train"],
    "export nowhere --format pft": ["'pft'", "purified, peft, merged", "Did you mean 'peft'"],
    "report nowhere": ["'nowhere'", "lope train"],
    "launch trian": ["'trian'", "train, eval, corpus", "Did you mean 'train'"],
    "plan r.yaml --world-size 8 --gpu-memory 80gigs": ["'80gigs'", "80GiB"],
    "compare r.yaml adapter.num_poison=0": ["adapter.num_poison = 0", "lope init"],
    "init r.yaml": ["r.yaml exists", "another name"],
    "init new.yaml --model x": ["--data"],
    "corpus corrupt rows.jsonl out.txt": ["out.txt", "'.txt'", ".jsonl or .parquet"],
    # of rows
    "rows nowhere.jsonl": ["'nowhere.jsonl'", "does not exist", "give a file"],
    "rows torn.jsonl": ["torn.jsonl, line 2"],
    "rows short.jsonl": ["short.jsonl, line 2", "'output'"],
    "rows foreign.jsonl": ["foreign.jsonl", "question", "data.columns"],
    "rows role.jsonl": ["role.jsonl", "narrator", "data.roles"],
    "rows silent.jsonl": ["silent.jsonl, line 1", "assistant"],
    "rows number.jsonl": ["number.jsonl, line 1", "instruction"],
    "rows empty.jsonl": ["empty.jsonl"],
    "rows parts.jsonl": ["parts.jsonl, line 1", "image_url"],
}
RAW = ("Traceback", "Value error", "pydantic", "literal[", "Input should", "[type=")


@pytest.fixture(scope="module")
def folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mistakes")
    model = {"name_or_path": "/no/such", "architecture": ARCHITECTURE}
    recipe = {"output_dir": "run", "model": model, "data": {"path": "rows.jsonl"}, "train": {}}
    (path / "r.yaml").write_text(yaml.safe_dump(recipe))
    (path / "rows.jsonl").write_text((json.dumps(GOOD) + "\n") * 20)
    for name, text in (FILES | ROWS).items():
        (path / name).write_text(text)
    (path / "model").symlink_to(tiny_llama)
    return path


@pytest.mark.parametrize("words", MISTAKES)
def test_each_mistake_is_answered_with_what_to_do(
    words: str, folder: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    verb, *rest = words.split(" ")
    command = ["data", "show"] if words == "rows nowhere.jsonl" else ["check"]  # reads rows at all
    if verb == "rows":
        there = ["model.name_or_path=model", "model.architecture=null", f"data.path={rest[0]}"]
        command, rest = [*command, "r.yaml"], [*there, *rest[1:]]
    else:
        command = [verb]
    monkeypatch.setattr("sys.argv", ["lope", *command, *rest])
    with pytest.raises(SystemExit) as ended:
        main()
    out, error = capfd.readouterr()
    assert ended.value.code == 2
    *_, message = error.splitlines()
    assert message.startswith("error: "), error + out
    assert [part for part in MISTAKES[words] if part not in message] == [], message
    assert [part for part in RAW if part in error] == []
    assert not os.path.exists("run")


def test_there_are_forty_of_them() -> None:
    assert len(MISTAKES) >= 40
