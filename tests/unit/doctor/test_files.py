"""The files that hosts are compared by."""

from pathlib import Path

from lope_dist.config.data import DataConfig
from lope_dist.doctor.files import data_files


def test_rows_to_validate_on_are_compared_too(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    for path in paths:
        Path(path).write_text("{}")
    config = DataConfig.model_validate({"path": paths[0], "validation": {"path": paths[1]}})
    assert data_files(config) == paths


def test_a_data_set_of_the_hub_has_no_files_here(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.jsonl")
    sources = [{"path": "tatsu-lab/alpaca"}, {"path": absent}]
    config = DataConfig.model_validate({"sources": sources})
    assert data_files(config) == [absent]
