"""Folders as people have them: of the hub, of `save_to_disk`, and of files as they fell."""

import datasets
import pytest
from support.row_files import write_rows

from lope_dist.config.data import DataConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.examples.source import open_source


def open_path(path, **keys):
    return open_source(DataConfig(path=str(path), **keys))


def lay(folder, rows, **files):
    """Write single rows; `data__train_0=1` is row 1 in data/train-0.parquet."""
    for name, number in files.items():
        path = folder / f"{name.replace('__', '/').replace('_', '-')}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_rows(path, [rows[number]])


def answers(source):
    return [example.turns[-1].text for example in source.read()]


SHARD = "{}-0000{}-of-00002.{}"


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_shards_of_the_hub(tmp_path, rows, suffix):
    (tmp_path / "data").mkdir()
    for n, split in enumerate(["train", "test"]):
        for shard in (0, 1):
            path = tmp_path / "data" / SHARD.format(split, shard, suffix)
            write_rows(path, [rows[2 * n + shard]])
    (tmp_path / "README.md").write_text("# A data set\n\nWithout a card.\n")
    source = open_path(tmp_path)
    assert answers(source) == [rows[0]["output"], rows[1]["output"]]
    (note,) = source.notes
    assert "'train'" in note
    assert "train, test" in note
    assert answers(open_path(tmp_path, split="test"))[0] == rows[2]["output"]
    assert len(open_path(tmp_path, split="test+train")) == 4
    with pytest.raises(LopeError, match=r"data\.split = 'dev'.* train, test\."):
        open_path(tmp_path, split="dev")


CARD = """---
license: mit
configs:
- config_name: short
  data_files:
  - split: train
    path: a/*.parquet
  - split: held_out
    path: [a2.parquet]
- config_name: long
  data_files: "b/**"
---
# A data set
"""


def test_a_data_set_card_says_which_files_are_of_which_split(tmp_path, rows):
    lay(tmp_path, rows, a__x=0, a__y=1, a2=2, b__c__z=3)
    (tmp_path / "README.md").write_text(CARD)
    with pytest.raises(LopeError, match=r"data\.subset = None .* short, long; "):
        open_path(tmp_path)
    assert answers(open_path(tmp_path, subset="short")) == [rows[0]["output"], rows[1]["output"]]
    held_out = open_path(tmp_path, subset="short", split="held_out")
    assert answers(held_out) == [rows[2]["output"]]
    assert answers(open_path(tmp_path, subset="long")) == [rows[3]["output"]]
    with pytest.raises(LopeError, match=r"data\.subset = 'other' .* short, long; "):
        open_path(tmp_path, subset="other")
    (tmp_path / "README.md").write_text(
        CARD.replace("- config_name: long", "- default: true\n  config_name: long")
    )
    assert answers(open_path(tmp_path)) == [rows[3]["output"]]


@pytest.mark.parametrize(
    ("yaml", "reason"),
    [
        ("configs: 3", r"README\.md .*configs"),
        ("configs:\n- config_name: x\n  data_files: 3", r"README\.md .*data_files"),
        ("configs:\n- config_name: x\n  sep: ';'\n  data_files: '*'", r"README\.md.*'x'.* sep,"),
        ("configs:\n- config_name: x\n  data_files: 'hf://datasets/a/b/c.csv'", "elsewhere"),
        ("configs:\n- config_name: x\n  data_files: 'no/*.csv'", r"data\.path = .*/\*\.jsonl"),
        ("a: [", r"README\.md "),
    ],
)
def test_a_card_that_cannot_be_followed_is_an_error(tmp_path, rows, yaml, reason):
    lay(tmp_path, rows, x=0)
    (tmp_path / "README.md").write_text(f"---\n{yaml}\n---\n")
    with pytest.raises(LopeError, match=reason):
        open_path(tmp_path)


def test_names_and_folders_tell_splits(tmp_path, rows):
    lay(tmp_path / "names", rows, train=0, validation=1)
    lay(tmp_path / "folders", rows, train__x=0, train__y=1, test__x=2)
    assert answers(open_path(tmp_path / "names")) == [rows[0]["output"]]
    assert answers(open_path(tmp_path / "names", split="validation")) == [rows[1]["output"]]
    assert len(open_path(tmp_path / "folders")) == 2
    lay(tmp_path / "names", rows, more=2)
    source = open_path(tmp_path / "names")
    assert len(source) == 1
    assert "more.parquet" in source.notes[0]
    lay(tmp_path / "capitals", rows, TRAIN=0, my__Test=1)
    assert answers(open_path(tmp_path / "capitals")) == [rows[0]["output"]]
    lay(tmp_path / "only", rows, test=0, more=1)
    with pytest.raises(LopeError, match=r"splits test; .*more\.parquet\."):
        open_path(tmp_path / "only")


def test_other_files_are_no_data_and_the_rest_is_train(tmp_path, rows):
    folder = tmp_path / "odd [1]"
    lay(folder, rows, b=1, sub__c=2, _cache__hidden=3, __pycache__x=4)
    (folder / "-cache").rename(folder / ".cache")
    write_rows(folder / "a.jsonl", [rows[0]]).rename(folder / "a.JSONL")
    write_rows(folder / ".hidden.jsonl", [rows[5]])
    write_rows(folder / "cache-0f3a.arrow", [rows[6]])
    for name in ("notes.md", "eval_script.py", "dataset_infos.json", "config.json"):
        (folder / name).write_text("{}")
    source = open_path(folder)
    assert answers(source) == [rows[i]["output"] for i in (0, 1, 2)]
    assert source.notes == ()
    write_rows(folder / "d.arrow", [rows[0]])
    assert len(open_path(str(folder / "*.arrow").replace("[", "[[]"))) == 1


def test_a_saved_folder_reads_its_own_files_alone(tmp_path, rows):
    parts = {name: datasets.Dataset.from_list(rows[:n]) for n, name in enumerate("abc", start=1)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    write_rows(tmp_path / "saved" / "a" / "cache-12.arrow", rows)
    assert len(open_path(tmp_path / "saved", split="a")) == 1
    source = open_path(tmp_path / "saved", split="b+c")
    assert len(source) == 5
    assert "of a, b, c" in source.notes[0]
    with pytest.raises(LopeError, match=r"'train' .* a, b, c"):
        open_path(tmp_path / "saved")
    with pytest.raises(LopeError, match=r"data\.subset = 'x' "):
        open_path(tmp_path / "saved", split="a", subset="x")


def test_the_choice_of_a_split_is_told(tmp_path, rows, capsys):
    lay(tmp_path, rows, train=0, test=1)
    open_path(tmp_path).tell()
    first = capsys.readouterr().err
    assert "'train'" in first
    assert "train, test" in first
    open_path(tmp_path).tell()  # from the store
    assert capsys.readouterr().err == first


@pytest.mark.parametrize(
    "name",
    ["no_such_folder", "here/no_such", "here/no/such", "no/such/folder", "./x", "no_such/", "x.csv",
     "no/such.ndjson", "a b/c", "alpaca"],
)  # fmt: skip
def test_a_missing_folder_is_never_asked_of_the_hub(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(LopeError, match=r"owner/name"):
        open_path(name)


def test_what_may_be_of_the_hub_is_said_not_to_be_here(tmp_path, monkeypatch, capsys):
    def load_dataset_builder(name, subset):
        assert "'someone/data'" in capsys.readouterr().err
        raise ConnectionError("no route")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    with pytest.raises(LopeError, match=r"'someone/data' .*'train'.*: no route\.$"):
        open_path("someone/data")
