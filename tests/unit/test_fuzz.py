"""Whatever stands in a file that a stranger may have written: a sentence, or the value.

`LOPE_FUZZ=5000 pytest tests/unit/test_fuzz.py` tries so many inputs of each kind.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lope_dist.config.load import dump_config, load_config
from lope_dist.core.errors import LopeError
from lope_dist.core.side_files import COST, MANIFEST, METRICS, RESULTS, ROUTER, STATE
from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.train.checkpoint.integrity import MANIFEST as SEAL
from lope_dist.train.checkpoint.integrity import defect, sealed_files

FUZZ = settings(
    max_examples=int(os.environ.get("LOPE_FUZZ", "60")),
    deadline=None,  # of a clock on the wall; see `quick`
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize="LOPE_FUZZ" not in os.environ,
)
pytestmark = pytest.mark.timeout(0 if "LOPE_FUZZ" in os.environ else 300)
"""Thousands of inputs take as long as they take; the fault matrix ends what hangs."""
MOST_S = 5.0
"""Processor time that one input may take."""


def quick(test):
    """Have a test assert that none of its inputs takes long."""

    @functools.wraps(test)
    def timed(*arguments, **settings) -> None:
        began = time.process_time()
        test(*arguments, **settings)
        assert time.process_time() - began < MOST_S

    return timed


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1" * 5000, "${x}", "\0", "../x", "F32", "BF16"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
GARBAGE = st.binary(max_size=64)


def changed(tree: dict) -> st.SearchStrategy[dict]:
    """Return the tree with a value somewhere in it replaced, added or taken away."""
    places = list(_places(tree))

    def apply(place: tuple, value: object, removes: bool) -> dict:
        copy = json.loads(json.dumps(tree))
        *path, last = place
        inner = copy
        for part in path:
            inner = inner[part]
        if removes and isinstance(inner, dict):
            inner.pop(last, None)
        else:
            inner[last] = value
        return copy

    return st.builds(apply, st.sampled_from(places), VALUES, st.booleans())


def _places(tree: object, above: tuple = ()) -> list[tuple]:
    found = []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)  # type: ignore[arg-type]
    for key, value in items:
        found.append((*above, key))
        if isinstance(value, dict | list) and value:
            found += _places(value, (*above, key))
    return found


HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]},
}


@FUZZ
@given(header=changed(HEADER) | VALUES | GARBAGE, length=st.none() | st.integers(0, 2**64 - 1))
@quick
def test_headers_of_safetensors(header, length, tmp_path: Path) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    (tmp_path / "model.safetensors").write_bytes(size.to_bytes(8, "little") + text + bytes(24))
    try:
        files = TensorFiles(tmp_path)
    except LopeError:
        return
    try:
        for name in files.names():
            files.read(name, 0, min(4, _count(files.shape(name))))
    except LopeError:
        pass
    finally:
        files.close()


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


SEALED = {"format": 1, "files": {"x": {"size": 1, "sha256": "0" * 64}}}


@FUZZ
@given(content=changed(SEALED) | VALUES | GARBAGE)
@quick
def test_manifests_of_checkpoints(content, tmp_path: Path) -> None:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (tmp_path / SEAL).write_bytes(text)
    (tmp_path / "x").write_text("x")
    for look in (defect, sealed_files):
        with contextlib.suppress(LopeError):
            look(tmp_path)


STEP = {"stage": "poison", "step": 3, "loss": 1.5, "tokens": 7, "time": 1.0, "lr": {"a": 0.1}}
TREES = {
    MANIFEST: {"starts": [{"status": "running"}], "fingerprints": {"data": "x"}},
    RESULTS: {"rows": [{"name": "x", "tasks": {"t": {"acc": 1}}}], "groups": {"g": ["t"]}},
    ROUTER: {"poison": {"layer": [0.5, 0.5]}, "experts": ["normal_0"]},
    STATE: {"status": "finished", "progress": {"next_step": 3}},
    COST: {"poison": {"seconds": 1.0}},
}


@pytest.mark.parametrize("file", TREES, ids=lambda file: file.name)
def test_side_files(file, tmp_path: Path) -> None:
    @FUZZ
    @given(content=changed(TREES[file]) | VALUES | GARBAGE)
    @quick
    def look(content) -> None:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / file.name).write_bytes(text)
        value = file.recover(tmp_path)
        assert value is None or (tmp_path / file.name).exists()
        for aside in tmp_path.glob("*.damaged-*"):
            aside.unlink()

    look()


@FUZZ
@given(lines=st.lists(changed(STEP) | VALUES | GARBAGE, max_size=4))
@quick
def test_metrics(lines, tmp_path: Path) -> None:
    texts = [x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines]
    (tmp_path / METRICS.name).write_bytes(b"\n".join([*texts, b""]))
    for step in METRICS.recover(tmp_path):
        assert step["step"] + 1 > 0
        assert step["loss"] == step["loss"]
    for aside in tmp_path.glob("*.damaged-*"):
        aside.unlink()


def test_recipes(tiny_config, tmp_path: Path) -> None:
    tree = yaml.safe_load(dump_config(tiny_config()))

    @FUZZ
    @given(content=changed(tree | {"include": []}) | VALUES | GARBAGE)
    @quick
    def look(content) -> None:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / "recipe.yaml").write_bytes(text)
        with contextlib.suppress(LopeError):
            load_config(tmp_path / "recipe.yaml")

    look()
