"""What is asked of the hub: a description for `check`, `params` and `plan`, weights for a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.hub import Hub, serve
from transformers import LlamaForCausalLM

from lope_dist.core.errors import LopeError
from lope_dist.model.hub import INDEX, SINGLE, weights_file

NAME = "someone/small"
WEIGHTS = ("safetensors", ".bin", ".pth")
BEGIN = "a run begins"
TOGETHER = f"""
import json, os, sys, urllib.error, urllib.parse, urllib.request
from lope_dist.cli import main

for words in json.loads(sys.argv[1]):
    if words[0] == "train":
        file = urllib.parse.quote({f"/{NAME}/resolve/main/{BEGIN}"!r})
        try:
            urllib.request.urlopen(os.environ["HF_ENDPOINT"] + file)
        except urllib.error.HTTPError:
            pass  # there is no such file, and it was asked for
    sys.argv = ["lope", *words]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, (words, ended.code)
"""
"""Several commands in one process; the hub is told of the run."""


@pytest.fixture
def repository(tiny_llama: Path, tmp_path: Path) -> Path:
    """A repository with its weights four times over, as some are published."""
    folder = tmp_path / "repository"
    shutil.copytree(tiny_llama, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    LlamaForCausalLM.from_pretrained(tiny_llama).save_pretrained(folder, max_shard_size="100KB")
    (folder / "original").mkdir()
    for name in (
        "consolidated.safetensors",
        "consolidated.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "original/consolidated.00.pth",
        "original/params.json",
        "modeling_own.py",
    ):
        (folder / name).write_bytes(b"{}")
    return folder


@pytest.fixture
def hub(repository: Path):
    with serve(repository, NAME) as hub:
        yield hub


@pytest.fixture
def run(hub: Hub, tmp_path: Path):
    """Return a function: arguments of Python -> its end, with a cache that lasts for the test."""

    def start(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            env=os.environ | hub.environment(tmp_path / "cache") | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return start


@pytest.fixture
def fetch(run):
    """Return a function: fetches in a process of its own, returns the folder or the error."""

    def ask(name: str = NAME, *, weights: bool, **environment: str) -> Path | str:
        arguments = f"{name!r}, None, weights={weights}, code=False"
        code = f"from lope_dist.model.hub import fetch; print(fetch({arguments}))"
        done = run("-c", code, **environment)
        return Path(done.stdout.strip()) if done.returncode == 0 else done.stderr

    return ask


def weights_of(hub: Hub) -> set[str]:
    """Return the files with weights that were asked for."""
    return {name for name in hub.asked if name.endswith(WEIGHTS)}


@pytest.mark.thorough
def test_a_run_asks_for_weights_and_nothing_before_it_does(
    run, hub: Hub, alpaca_file: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"output_dir: {tmp_path / 'run'}\n"
        f"model: {{name_or_path: {NAME}, dtype: float32}}\n"
        f"data: {{path: {alpaca_file}, max_length: 256}}\n"
        "train: {global_batch: 4, stages: {finetune: {trainable: [shared_a, normal_b, router], "
        "max_steps: 1}}}\n"
        "engine: {kind: local}\n"
    )
    verbs = [["check"], ["params"], ["plan", "--world-size", "2"]]
    commands = [[verb, str(recipe), *more] for verb, *more in verbs]
    done = run("-c", TOGETHER, json.dumps([*commands, ["train", str(recipe)]]))
    assert done.returncode == 0, done.stderr
    begins = hub.asked.index(BEGIN)
    before = hub.asked[:begins]
    assert {"config.json", INDEX, "tokenizer.json", "tokenizer_config.json"} <= set(before)
    assert [name for name in before if name.endswith(WEIGHTS)] == []
    assert [name for name in before if "/" in name or name.endswith(".py")] == []
    shards = set(json.loads((hub.folder / INDEX).read_text())["weight_map"].values())
    assert len(shards) > 1
    assert weights_of(hub) == shards


def test_the_cache_alone_is_enough(fetch, hub: Hub) -> None:
    folder = fetch(weights=True)
    assert isinstance(folder, Path)
    hub.asked.clear()
    assert fetch(weights=True, HF_HUB_OFFLINE="1") == folder
    assert fetch(weights=True, HF_ENDPOINT="http://127.0.0.1:9") == folder  # nobody is there
    assert hub.asked == []


def test_a_single_file_goes_before_an_index(fetch, hub: Hub, tiny_llama: Path) -> None:
    shutil.copy(tiny_llama / SINGLE, hub.folder)
    assert isinstance(fetch(weights=True), Path)
    assert weights_of(hub) == {SINGLE}
    assert INDEX not in hub.asked


@pytest.mark.parametrize("is_sharded", [True, False])
def test_a_cached_description_has_no_weights(fetch, hub: Hub, is_sharded: bool) -> None:
    if not is_sharded:
        (hub.folder / INDEX).rename(hub.folder / SINGLE)
    folder = fetch(weights=False)
    assert isinstance(folder, Path)
    assert fetch(weights=False, HF_HUB_OFFLINE="1") == folder
    error = fetch(weights=True, HF_HUB_OFFLINE="1")
    assert isinstance(error, str)
    assert "the hub did not give it" in error


def test_pickles_alone_are_refused_before_a_download(fetch, hub: Hub) -> None:
    (hub.folder / INDEX).unlink()
    for weights in (False, True):
        error = fetch(weights=weights)
        assert isinstance(error, str)
        assert "pickle files (original/consolidated.00.pth)" in error
    assert hub.asked == []


def test_a_name_that_the_hub_does_not_know_is_told(fetch) -> None:
    error = fetch("someone/other", weights=False)
    assert isinstance(error, str)
    assert "LopeError: model.name_or_path: 'someone/other'" in error


def test_a_repository_without_weights_is_refused() -> None:
    with pytest.raises(LopeError, match=r"holds neither model\.safetensors "):
        weights_file({"config.json"}, NAME)
