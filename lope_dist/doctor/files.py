"""The files that every rank reads, by the paths that the configuration names."""

from __future__ import annotations

import glob
import importlib.util
from pathlib import Path

from lope_dist.config.data import DataConfig
from lope_dist.config.model import ModelConfig
from lope_dist.corpus.rows.readers import is_meant_as_a_path


def model_files(config: ModelConfig) -> list[str]:
    """Return the model's folder, or its package's; for a hub name its folder in the cache."""
    name = config.name_or_path
    if name.startswith("package:"):
        spec = importlib.util.find_spec(name.removeprefix("package:").replace("-", "_"))
        return [str(Path(spec.origin).parent)] if spec and spec.origin else [name]
    folder = Path(name).expanduser()
    if folder.is_dir() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        return [str(folder.absolute())]
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=config.revision)
    return [str(Path(cached).parent)] if isinstance(cached, str) else [f"{name} (hub)"]


def data_files(config: DataConfig) -> list[str]:
    """Return the data's files and folders; hub data sets are left out."""
    files: list[str] = []
    validation = config.of_validation
    for path in (*config.paths, *(validation.paths if validation else ())):
        matched = sorted(glob.glob(str(Path(path).expanduser()), recursive=True))
        here = [str(Path(match).absolute()) for match in matched]
        files += here or ([path] if is_meant_as_a_path(path) else [])
    return files
