"""Shared fixtures: a tiny random Llama with a byte tokenizer, and a small Alpaca file."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from support.tiny import save_alpaca, save_tiny_llama, tiny_tree

from lope_dist.core.scratch import scratch_folder

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that asks the hub is a broken test
if os.environ.setdefault("DS_ACCELERATOR", "cpu") == "cpu":  # `make test-gpu` has `cuda`
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the tests are of the CPU, on any machine
    os.environ["TRITON_INTERPRET"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell's background job ignores Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
if "LOPE_DATA_CACHE" not in os.environ:  # workers of distributed tests inherit it
    _cache = ExitStack()
    os.environ["LOPE_DATA_CACHE"] = str(_cache.enter_context(scratch_folder("lope-tests-")))
    atexit.register(_cache.close)

REPOSITORY = Path(__file__).resolve().parent.parent


LONGEST = (
    "unit/study/test_compare_methods.py",
    "gpu/test_gpu_runs.py",
    "unit/study/test_run.py",
    "unit/train/test_session.py",
    "unit/corpus/test_fit_scripts.py",
    "unit/corpus/test_fit_noise.py",
    "unit/evaluate/test_going_on.py",
    "unit/train/test_sizing.py",
    "unit/adapters/kernels/test_kernels.py",
    "unit/train/test_baselines.py",
    "unit/train/test_options.py",
    "unit/train/test_new_recipe.py",
    "unit/train/test_kept.py",
    "unit/engine/test_peers.py",
    "unit/test_commands_run.py",
    "unit/model/test_hub.py",
)
"""The files that take longest begin, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of `LONGEST` first; the others stay in their order."""
    place = {REPOSITORY / "tests" / name: at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session", autouse=True)
def _each_model_is_measured_once() -> Iterator[None]:
    """Where tests train: the memory that a run will take is asked of the same model each time."""
    sizing = sys.modules.get("lope_dist.train.premises.sizing")  # it imports torch
    with pytest.MonkeyPatch.context() as patch:
        if sizing is not None:
            from support.remembered import remembered

            patch.setattr(sizing, "kept_activations", remembered(sizing.kept_activations))
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real data sets, where they are at hand."""
    folder = Path(os.environ.get("LOPE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set LOPE_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers, in float32 safetensors, with grouped-query attention."""
    folder = tmp_path_factory.mktemp("tiny_llama")
    save_tiny_llama(folder)
    return folder


@pytest.fixture(scope="session")
def alpaca_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of several lengths; 83 of them, so that no batch size divides them."""
    path = tmp_path_factory.mktemp("data") / "alpaca.jsonl"
    save_alpaca(path, 83)
    return path


@pytest.fixture(scope="session")
def config_in(tiny_llama: Path, alpaca_file: Path):
    """Return a maker of run configurations on the tiny model, in float32 NF4, in a folder."""

    def make(output: Path, **changes):
        from omegaconf import OmegaConf

        from lope_dist.config.load import validate_config

        tree = OmegaConf.create(tiny_tree(tiny_llama, alpaca_file, output))
        tree.train.micro_batch = 4  # two a step
        for key, value in changes.items():
            OmegaConf.update(tree, key.replace("__", "."), value)
        return validate_config(OmegaConf.to_container(tree), "test")

    return make


@pytest.fixture
def tiny_config(config_in, tmp_path: Path):
    """Return a maker of run configurations in this test's own folder."""
    return partial(config_in, tmp_path / "run")
