"""docs/private_names.md: each name is still there, and no other private name is used."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "lope_dist"
PAGE = (ROOT / "docs" / "private_names.md").read_text()
ROWS = [
    (library.strip(), *(re.findall(r"`([^`]+)`", cell) for cell in cells))
    for library, *cells in re.findall(r"^\| ([\w-]+) +\| (`.*) \| (`.*) \| (`.*) \|$", PAGE, re.M)
]
NAMES = [(library, where, name) for library, (where,), names, _ in ROWS for name in names]
LISTED = {
    (f"lope_dist/{file}", name) for _, _, names, files in ROWS for name in names for file in files
}
OF_PYTHON = {"_replace", "_asdict", "_exit"}


def place_of(where: str) -> tuple[Any, Any]:
    """Return a module, and the class in it where one is named."""
    module_name, _, class_name = where.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError:  # `torch.ops.aten` is made as it is asked for
        parent, _, name = module_name.rpartition(".")
        module = getattr(importlib.import_module(parent), name)
    return module, getattr(module, class_name) if class_name else module


def has(where: str, name: str) -> bool:
    """Whether a module or class has a name, be it one that only its instances have."""
    module, holder = place_of(where)
    if hasattr(holder, name):
        return True
    return re.search(rf"\b{name}\b", inspect.getsource(module)) is not None


@pytest.mark.parametrize(("library", "where", "name"), NAMES)
def test_the_library_still_has_the_name(library: str, where: str, name: str) -> None:
    if library == "liger-kernel":  # of the extra `cuda`
        pytest.importorskip("liger_kernel")
    users = sorted(file for file, used in LISTED if used == name)
    assert has(where, name), (
        f"{library} {_version(library)} has no {where}.{name} any more, which {', '.join(users)} "
        "uses; see what does the same now, or bound the library below this release"
    )


def _version(library: str) -> str:
    return sys.version.split()[0] if library == "python" else version(library)


def private_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names of attributes and imports that a file takes from elsewhere."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            of_super = isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()"
            if of_super or not (
                node.attr in own
                or (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
            ):
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            if isinstance(node.args[1], ast.Constant):
                yield str(node.args[1].value)
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("lope_dist"):
            is_private = re.search(r"(^|\.)_", node.module or "")
            yield from (n.name for n in node.names if is_private or n.name.startswith("_"))


def is_private(name: str) -> bool:
    return re.match(r"_[^_]|ds_", name) is not None and name not in OF_PYTHON


def test_no_other_private_name_is_used() -> None:
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    ours = {  # attributes and functions that our own modules define for each other
        name for tree in trees.values() for node in ast.walk(tree) for name in _defined(node)
    }
    used = {
        (str(path.relative_to(ROOT)), name)
        for path, tree in trees.items()
        for name in private_names(tree)
        if is_private(name) and (name not in ours or (str(path.relative_to(ROOT)), name) in LISTED)
    }
    assert len(used) > 20, "the search finds nothing"
    assert used <= LISTED, "take a public name, or add these to docs/private_names.md"


def _defined(node: ast.AST) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return [node.attr] if ast.unparse(node.value) == "self" else []
    return []


def test_what_is_listed_is_used_where_the_page_says() -> None:
    for _, (where,), names, files in ROWS:
        texts = {file: (PACKAGE / file).read_text() for file in files}
        for name in names:
            assert any(re.search(rf"\b{name}\b", text) for text in texts.values()), name
        for file, text in texts.items():
            assert any(re.search(rf"\b{name}\b", text) for name in names), (where, file)


def test_libraries_with_private_parts_are_bounded() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for library in {row[0] for row in ROWS} - {"python"}:
        assert re.search(rf'"{library}>=[\w.]+,<[\w.]+"', project), library
