"""The files of a split in a local folder: of a data set as the hub has them, or as it was saved."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any

from fsspec.utils import glob_translate

from lope_dist.config.data import SourceConfig
from lope_dist.core.errors import LopeError, first_line
from lope_dist.corpus.rows.readers.files import ALLOWED, has_known_suffix

_FOLLOWED = {"data_files", "data_dir", "default", "version", "description", "drop_labels"}
"""What a data set card may say of a configuration."""
_IN_NO_SPLIT = ""


def find_split(folder: Path, section: SourceConfig) -> tuple[list[Path], str]:
    """Return the files of the split that is asked for, or of several (`train+test`), and a note.

    A folder that `save_to_disk` wrote knows its files. For any other, `datasets` tells which file
    is of which split: by the data set card (README.md), by shards in `data/`, or by their names;
    all are `train` where nothing tells. Hidden files and caches are no data.

    Raises:
        LopeError: no such split or subset, no data, or a card that cannot be followed.
    """
    splits = _saved(folder)
    if splits is None:
        splits = _by_name(folder, section.subset)
    elif section.subset is not None:
        raise LopeError(
            f"data.subset = {section.subset!r} with the folder '{folder}', which has none; leave "
            "data.subset out."
        )
    left_out = splits.pop(_IN_NO_SPLIT, [])
    others = f"; in no split: {', '.join(path.name for path in left_out[:5])}" * bool(left_out)
    names = section.split.split("+")
    if not set(names) <= set(splits):
        if section.split != "train" and list(splits) == ["train"]:
            raise LopeError(
                f"data.split = {section.split!r} with the folder '{folder}', which has no splits; "
                "leave data.split out."
            )
        raise LopeError(
            f"data.split = {section.split!r} is not in the folder '{folder}'; it holds the splits "
            f"{', '.join(splits)}{others}."
        )
    files = [path for name in names for path in splits[name]]
    if len(splits) == 1 and not left_out:
        return files, ""  # there was no choice
    return files, (
        f"'{folder}': the split '{section.split}' is read, of {', '.join(splits)}{others} "
        "(data.split names another)."
    )


def is_cache(path: Path) -> bool:
    """Tell whether a file is one that `datasets` keeps beside the data for itself."""
    return path.suffix == ".arrow" and path.name.startswith(("cache-", "tmp"))


def _saved(folder: Path) -> dict[str, list[Path]] | None:
    """Return the splits of a folder that `save_to_disk` wrote; nothing for another folder."""
    names = folder / "dataset_dict.json"
    if names.is_file():
        return {name: _saved_files(folder / name) for name in _json(names).get("splits", [])}
    return {"train": _saved_files(folder)} if (folder / "state.json").is_file() else None


def _saved_files(folder: Path) -> list[Path]:
    entries = _json(folder / "state.json").get("_data_files", [])  # it knows the order
    return [folder / entry["filename"] for entry in entries]


def _by_name(folder: Path, subset: str | None) -> dict[str, list[Path]]:
    from datasets.data_files import sanitize_patterns

    card = _card(folder, subset)
    base = folder.resolve() / card.get("data_dir", "")
    data_files = card.get("data_files")
    try:
        if data_files:
            patterns = sanitize_patterns(data_files)
            by_split = {str(name): _matching(base, list(globs)) for name, globs in patterns.items()}
        else:
            by_split = _by_default(base)
    except FileNotFoundError:
        by_split = {}
    except ValueError as error:  # names that are no splits
        raise LopeError(f"The folder '{folder}' cannot be read: {error}.") from None
    splits = {name: files for name, files in by_split.items() if files}
    if not data_files:
        in_a_split = {path for files in splits.values() for path in files}
        in_none = [path for path in _matching(base, ["**"]) if path not in in_a_split]
        splits |= {_IN_NO_SPLIT if splits else "train": in_none} if in_none else {}
    if not splits:
        raise LopeError(
            f"data.path = '{folder}' is a folder without data files; give a folder, a file or a "
            f"glob such as '{folder}/*.jsonl' (allowed: {ALLOWED})."
        )
    root = folder.resolve()
    return {name: [folder / path.relative_to(root) for path in splits[name]] for name in splits}


def _by_default(base: Path) -> dict[str, list[Path]]:
    """Return the splits that `datasets` finds by names; these may be in capitals.

    Raises:
        FileNotFoundError: there is no data.
    """
    from datasets.data_files import _get_data_files_patterns

    files = {path.relative_to(base).as_posix(): path for path in _matching(base, ["**"])}

    def resolve(pattern: str) -> list[str]:
        expression = re.compile(glob_translate(pattern), re.IGNORECASE)
        return [name for name in files if expression.match(name)]

    patterns = _get_data_files_patterns(resolve)
    return {
        str(split).lower(): [files[n] for n in dict.fromkeys(n for g in globs for n in resolve(g))]
        for split, globs in patterns.items()
    }


def _matching(base: Path, patterns: list[str]) -> list[Path]:
    from datasets.data_files import resolve_pattern

    matches: dict[Path, None] = {}
    for pattern in patterns:
        if "://" in pattern:
            raise ValueError(f"its README.md names {pattern}, which is elsewhere")
        try:
            names = map(Path, sorted(resolve_pattern(pattern, escape(str(base)))))
        except FileNotFoundError:
            continue
        matches |= {name: None for name in names if has_known_suffix(name) and not is_cache(name)}
    return list(matches)


def _card(folder: Path, subset: str | None) -> Mapping[str, Any]:
    """Return what the data set card says of the subset, or of the default one; or nothing."""
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, DatasetCardData

    path = folder / "README.md"
    try:
        card = DatasetCard.load(path).data.to_dict() if path.is_file() else {}
        configs = MetadataConfigs.from_dataset_card_data(DatasetCardData(**card))
        name = subset or configs.get_default_config_name()
    except Exception as error:  # whatever is wrong with its YAML: it is the user's to mend
        raise LopeError(f"{path} cannot be read as a data set card: {first_line(error)}.") from None
    if not configs and subset is None:
        return {}
    if name is None or name not in configs:
        choices = f"it has {', '.join(configs)}; name one" if configs else "its card names none"
        raise LopeError(f"data.subset = {subset!r} with the folder '{folder}': {choices}.")
    if ignored := sorted(set(configs[name]) - _FOLLOWED):
        raise LopeError(
            f"{path}: configuration '{name}' sets {', '.join(ignored)}, which cannot be followed; "
            "name the files themselves in data.path."
        )
    return configs[name]


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LopeError(f"{path} cannot be read: {error}.") from None
