"""The files that come with the code: recipes, suites of tasks, launch scripts.

In a clone they lie at its top level. A wheel carries them inside the package, where `setup.py` puts
them; there is no second copy to keep in step.
"""

from __future__ import annotations

from pathlib import Path

from lope_dist.core.errors import suggest

FOLDERS = ("recipes", "baselines", "paper", "studies")
"""Folders of `configs` whose files run as they are; those of `configs/base` are layers."""
_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "shipped"


def shipped(path: str = "") -> Path:
    """Return where a shipped file or folder lies, named as from the top of a clone."""
    root = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent
    return root / path


def shipped_names() -> list[str]:
    """Return the names of all files that run as they are, as `FOLDER/NAME`."""
    folders = {folder: shipped(f"configs/{folder}") for folder in FOLDERS}
    return [
        f"{n}/{file.stem}" for n, path in folders.items() for file in sorted(path.glob("*.yaml"))
    ]


def suggest_shipped(name: str) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest of those names, or ``""``."""
    names = [each.partition("/")[2] for each in shipped_names()]
    return suggest(Path(name).stem, names)


def shipped_config(name: str | Path) -> Path | None:
    """Return the shipped file that ``name`` means; None if there is none.

    ``configs/recipes/qwen3_8b.yaml``, ``recipes/qwen3_8b`` and ``qwen3_8b`` are the same file.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        return None
    file = path if path.suffix in (".yaml", ".yml") else path.with_name(f"{path.name}.yaml")
    configs = shipped("configs")
    candidates = [shipped(str(file)), configs / file]
    if len(file.parts) == 1:
        candidates += [configs / folder / file for folder in FOLDERS]
    within = (
        candidate
        for candidate in candidates
        if candidate.is_relative_to(configs) and candidate.is_file()
    )
    return next(within, None)
