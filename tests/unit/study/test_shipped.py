"""Every shipped study: its file is read, and each of its cells is a run that could be started."""

from pathlib import Path

import pytest

from lope_dist.evaluate.loaded.rows import rows_for
from lope_dist.study.load import load_study

STUDIES = sorted((Path(__file__).resolve().parents[3] / "configs/studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_all_cells_are_valid(path: Path) -> None:
    study = load_study(path)
    assert study.config.output_dir.startswith("runs/studies/")
    cells = [*study.tries, *study.cells]
    folders = [cell.folder for cell in cells]
    assert len(set(folders)) == len(folders) > 0
    for cell in cells:
        rows_for(cell.rows, cell.config.adapter)
    for claim in study.config.claims.values():
        assert claim.better != claim.than
