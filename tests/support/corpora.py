"""Build corpora in tests, and look at their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.tiny import tiny_tree

from lope_dist.config.adapter import AdapterConfig
from lope_dist.config.load import validate_config
from lope_dist.corpus.built.build import Built, Recipe, build
from lope_dist.corpus.feed.loader import StageLoader


def make(recipe: Recipe, folder: Path, **settings: Any) -> Built:
    return build(recipe, folder, progress=False, **settings)


def content(folder: Path) -> dict[str, bytes]:
    """Return every file of a corpus but the locks: name -> bytes."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def loader_of(
    source: Any,
    tokenizer: Any,
    stage: Any,
    *,
    sizes: tuple[int, int] = (6, 2),
    marks: bool = False,
    ranks: dict[str, Any] | None = None,
    **changes: Any,
) -> StageLoader:
    """Return a stage's loader.

    ``sizes``: of the global batch and a micro-batch; ``marks``: the adapter has a use for them;
    ``ranks``: other arguments of the loader; ``changes``: sections of the run's configuration.
    """
    config = validate_config(tiny_tree(Path("model"), Path("rows"), Path("run")), "test")
    train = dict(zip(("global_batch", "micro_batch"), sizes, strict=True))
    changes["train"] = config.train.model_copy(update=train)
    changes["adapter"] = AdapterConfig(num_poison=int(marks))
    alone = {"rank": 0, "world_size": 1, "decoder_start_token_id": None}
    config = config.model_copy(update=changes)
    return StageLoader(source, tokenizer, config, stage, **alone | (ranks or {}))
