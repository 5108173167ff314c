"""What of a model on the hub is fetched: its description, or that and the weights it is read from.

    description   config.json, tokenizer, index of the weights    every verb
    weights       the files that `from_pretrained` would read     training, evaluation, exports

A repository may hold its weights several times over (`consolidated.safetensors`, pickles,
`original/`, other formats); none of those is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cache
from pathlib import Path, PurePosixPath

from lope_dist.core.errors import LopeError, first_line

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DESCRIBING = (".json", ".model", ".txt", ".jinja", ".tiktoken", ".spm")
_TEMPLATES = "additional_chat_templates/"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@cache
def fetch(name: str, revision: str | None, *, weights: bool, code: bool) -> Path:
    """Return the local folder of a hub model, downloaded or from the cache; once in a process.

    Args:
        name: Owner and name of the repository.
        revision: Branch, tag or commit.
        weights: Whether the weights must be there; else no request asks for any.
        code: Whether the model's own Python files are wanted.

    Raises:
        LopeError: the hub does not give it and the cache does not hold it, or it has no
            weights that can be read without running code.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    names, is_whole = _listed(name, revision)
    # A cache without weights says nothing about the repository.
    source = weights_file(names, name) if is_whole or names & {SINGLE, INDEX} else SINGLE
    try:
        folder = _download(
            name, revision, {f for f in names if _describes(f, code) or f == source == INDEX}
        )
        if weights:
            files = {SINGLE} if source == SINGLE else indexed_files(folder / INDEX)
            folder = _download(name, revision, files)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise _unreachable(name, error) from None
    return folder


def weights_file(names: Collection[str], where: str) -> str:
    """Return the file that the weights are read from, in the order of `from_pretrained`.

    Raises:
        LopeError: there are none in safetensors.
    """
    for file in (SINGLE, INDEX):
        if file in names:
            return file
    pickles = sorted(file for file in names if file.endswith(_PICKLES))
    if pickles:
        raise LopeError(
            f"{where} holds weights as pickle files ({pickles[0]}), which can run code when "
            "read; convert them with save_pretrained(FOLDER) and use that folder."
        )
    raise LopeError(f"{where} holds neither {SINGLE} nor {INDEX}, so there is nothing to load.")


def indexed_files(index: Path) -> set[str]:
    """Return the names of the files in an index of weights.

    Raises:
        LopeError: no such index, or one that leaves its folder.
    """
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
        are_names = all(isinstance(name, str) and "\0" not in name for name in names)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        are_names, names = False, set()
    if not are_names:
        raise LopeError(f"{index} is not a safetensors index: copy it again.")
    if any(Path(name).name != name for name in names):
        raise LopeError(f"{index} names a file outside its folder; it is not to be trusted.")
    return names


def _describes(file: str, code: bool) -> bool:
    if file.endswith(".py"):
        return code
    if file.endswith(".index.json"):
        return False
    is_outside = "/" in file and not file.startswith(_TEMPLATES)
    return not is_outside and PurePosixPath(file).suffix in _DESCRIBING


def _listed(name: str, revision: str | None) -> tuple[set[str], bool]:
    """Return the repository's files and True; if it cannot be asked, those in the cache and False.

    Raises:
        LopeError: it cannot be asked, and the cache does not know it.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.hf_api import RepoFile

    try:
        api = HfApi()
        commit = api.repo_info(name, revision=revision).sha
        tree = api.list_repo_tree(name, recursive=True, revision=commit)
        return {entry.path for entry in tree if isinstance(entry, RepoFile)}, True
    except Exception as error:  # the hub's, or of whichever library carries its requests
        try:
            folder = Path(
                snapshot_download(
                    name, revision=revision, allow_patterns=["config.json"], local_files_only=True
                )
            )
        except (OSError, ValueError):
            raise _unreachable(name, error) from None
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix() for file in files}, False


def _download(name: str, revision: str | None, files: Collection[str]) -> Path:
    """Return the snapshot's folder with these files in it, whole."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, revision=revision, allow_patterns=sorted(files)))
    absent = sorted(file for file in files if not (folder / file).is_file())
    if absent:
        raise FileNotFoundError(f"the cache lacks {absent[0]}, and the hub cannot be asked for it")
    return folder


def _unreachable(name: str, error: Exception) -> LopeError:
    return LopeError(
        f"model.name_or_path: '{name}' is not a local folder, and the hub did not give it "
        f"({first_line(error)}); give a folder or check the name, the network and your access."
    )
