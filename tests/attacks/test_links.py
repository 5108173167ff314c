"""A run's folder may hold links that lead elsewhere: nothing of ours goes through them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic
from lope_dist.core.runlog import append_line
from lope_dist.core.side_files import METRICS
from lope_dist.train.run.folder import open_run_folder
from lope_dist.train.run.lock import LOCK, run_lock


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    path = tmp_path / "precious"
    path.write_text("mine")
    return path


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_lock_that_is_a_link_empties_nothing(link, precious: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    link(tmp_path / "run" / LOCK, precious)
    with pytest.raises(LopeError, match=r"run/\.lock "), run_lock(tmp_path / "run"):
        pass
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("content", ["", None])
def test_nothing_is_written_through_a_link(content: str | None, tmp_path: Path) -> None:
    target = tmp_path / "target"
    if content is not None:
        target.write_text(content)
    (tmp_path / "run").mkdir()
    for name in (LOCK, METRICS.name):
        (tmp_path / "run" / name).symlink_to(target)
    with pytest.raises(LopeError, match="is a link"), run_lock(tmp_path / "run"):
        pass
    with pytest.raises(LopeError, match="is a link"):
        append_line(tmp_path / "run" / METRICS.name, {"stage": "poison"})
    assert (target.read_text() if target.exists() else None) == content


@pytest.mark.parametrize("name", ["metrics.jsonl", "manifest.json", "results.json", "checkpoints"])
def test_a_folder_with_links_under_our_names_is_refused(
    name: str, precious: Path, tiny_config
) -> None:
    config = tiny_config()
    folder = Path(config.output_dir)
    folder.mkdir()
    for target in (precious, precious.with_name("absent")):
        (folder / name).symlink_to(target)
        with pytest.raises(LopeError, match=rf"{name} and no run\.yaml"):
            open_run_folder(config, resume=False)
        assert [path.name for path in folder.iterdir()] == [name]
        (folder / name).unlink()
    assert precious.read_text() == "mine"


def test_a_link_under_the_name_of_a_whole_file_is_replaced(precious: Path, tmp_path: Path) -> None:
    (tmp_path / "state.json").symlink_to(precious)
    write_atomic(tmp_path / "state.json", "ours")
    assert (tmp_path / "state.json").read_text() == "ours"
    assert precious.read_text() == "mine"
