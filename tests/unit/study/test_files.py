"""The data files that a study makes."""

import json

import pytest
import yaml

from lope_dist.core.errors import LopeError
from lope_dist.study.files import make_files


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_files_are_slices_with_noise_or_without(make_study, alpaca_file):
    study = make_study()
    assert make_files(study) == ["train", "clean", "noisy"]
    rows = read(alpaca_file)
    assert read(study.data_file("train")) == rows[:40]
    assert read(study.data_file("clean")) == rows[40:60]
    noisy = read(study.data_file("noisy"))
    told = [json.loads(row.pop("noise")) for row in noisy]
    assert len(noisy) == 20
    for before, after, hits in zip(rows[40:60], noisy, told, strict=True):
        assert (before != after) <= bool(hits)
    assert sum(map(bool, told)) > 10
    assert make_files(study) == []


def test_long_rows_are_left_out_before_rows_are_counted(make_study, alpaca_file):
    files = {"train": {"source": str(alpaca_file), "max_characters": 90, "rows": [1, 3]}}
    study = make_study(files=files)
    make_files(study)
    short = [row for row in read(alpaca_file) if sum(map(len, row.values())) <= 90]
    assert 3 < len(short) < 83
    assert read(study.data_file("train")) == short[1:3]


def test_a_change_is_told_and_made_on_request(make_study, alpaca_file):
    files = {"train": {"source": str(alpaca_file), "rows": [0, 4]}}
    make_files(make_study(files=files))
    files["train"]["rows"] = [0, 5]
    study = make_study(files=files)
    with pytest.raises(LopeError, match=r"rows: \[0, 4\] -> \[0, 5\].*--redo-changed"):
        make_files(study)
    assert make_files(study, again=True) == ["train"]
    assert len(read(study.data_file("train"))) == 5


def test_a_file_that_was_not_made_to_its_end_is_made_again(make_study):
    study = make_study()
    made = make_files(study)
    target = study.data_file("noisy")
    whole = target.read_text()
    target.write_text(whole[:40])
    target.with_suffix(".made.json").unlink()
    assert "noisy" in made
    assert make_files(study) == ["noisy"]
    assert target.read_text() == whole


def test_a_changed_source_reaches_what_is_made_from_it(make_study, alpaca_file, tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text(alpaca_file.read_text())
    files = {"train": {"source": str(source)}, "noisy": {"source": "train", "noise": {"rate": 0.3}}}
    study = make_study(files=files)
    make_files(study)
    source.write_text("".join(alpaca_file.read_text().splitlines(keepends=True)[:9]))
    assert make_files(study, again=True) == ["train", "noisy"]
    assert len(read(study.data_file("noisy"))) == 9


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ({"source": "/nowhere.jsonl"}, "/nowhere.jsonl' "),
        ({"source": "train"}, "files.train "),
        ({"rows": [0, 84]}, r"\[0, 84\] of 83 rows"),
    ],
)
def test_sources_that_do_not_do_are_told(make_study, alpaca_file, file, part):
    with pytest.raises(LopeError, match=part):
        make_files(make_study(files={"train": {"source": str(alpaca_file)} | file}))


def test_rows_that_look_noisy_are_left_out(make_study, study_tree, tmp_path):
    files = study_tree["files"] | {
        "kept": {"source": "clean", "clean": {"drop": 0.25, "by": "brevity"}}
    }
    study = make_study(files=files)
    assert make_files(study) == ["train", "clean", "noisy", "kept"]
    rows, kept = read(study.data_file("clean")), read(study.data_file("kept"))
    dropped = read(study.data_file("kept").with_suffix(".dropped.jsonl"))
    reasons = [row.pop("lope_clean") for row in dropped]
    assert (len(kept), len(dropped)) == (15, 5)
    assert all(row in kept or row in dropped for row in rows)
    assert all("brevity" in reason["reason"] for reason in reasons)
    assert make_files(study) == []

    files["kept"] = {"source": "clean", "clean": {"drop": 0.5, "by": "brevity"}}
    study = make_study(files=files)
    with pytest.raises(LopeError, match=r"clean: .*0\.25.* -> .*0\.5"):
        make_files(study)
    assert make_files(study, again=True) == ["kept"]
    assert len(read(study.data_file("kept"))) == 10

    file, longer = tmp_path / "tiny.yaml", yaml.safe_load((tmp_path / "tiny.yaml").read_text())
    longer["data"]["max_length"] += 1
    file.write_text(yaml.safe_dump(longer))
    with pytest.raises(LopeError, match=r"max_length: 256 -> 257"):
        make_files(make_study(files=files))
    made = study.data_file("kept").with_suffix(".made.json")
    before = json.loads(made.read_text())
    del before["max_length"]  # as earlier files have it
    made.write_text(json.dumps(before))
    assert make_files(make_study(files=files)) == []


def test_a_cleaning_that_fails_is_told_and_leaves_no_file(make_study, study_tree):
    files = study_tree["files"] | {
        "kept": {"source": "clean", "clean": {"drop": 0.25, "by": "beauty"}}
    }
    study = make_study(files=files)
    with pytest.raises(LopeError, match=r"`lope clean` ended with status 2: .*beauty"):
        make_files(study)
    assert not study.data_file("kept").exists()


def test_a_cleaned_file_takes_its_source_whole(make_study, study_tree):
    kept = {"source": "clean", "rows": [0, 3], "clean": {"drop": 0.25}}
    with pytest.raises(LopeError, match="give rows to a file of its own"):
        make_study(files=study_tree["files"] | {"kept": kept})
