"""The cache of examples: written once, whole or not at all, and never in memory."""

import gzip
import json
import os
import pickle
import subprocess
import sys

import pytest
from support.row_files import write_rows

from lope_dist.config.data import DataConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.examples import source as records
from lope_dist.corpus.examples.source import open_source

OPEN = """
import sys
from lope_dist.config.data import DataConfig
from lope_dist.corpus.examples.source import open_source
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOPE_DATA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def passes(monkeypatch):
    """The passes over all rows so far."""
    counted = []
    original = records._Pass.run

    def read_all(*args):
        counted.append(args)
        return original(*args)

    monkeypatch.setattr(records._Pass, "run", read_all)
    return counted


def open_path(path, **keys):
    return open_source(DataConfig(path=str(path), **keys))


def stores(cache):
    return sorted(entry.name for entry in cache.iterdir() if entry.is_dir())


def test_rows_are_read_once_until_they_change(tmp_path, cache, passes, rows):
    path = write_rows(tmp_path / "x.jsonl", rows)
    first = open_path(path)
    assert open_path(path).fingerprint == first.fingerprint
    assert len(passes) == 1
    changes = ({"max_examples": 3}, {"max_bad_rows": 0.1}, {"format": "alpaca"})
    for change in (*changes, {"columns": {"instruction": "output"}}):
        open_path(path, **change)
    assert len(passes) == 5, "what a row becomes depends on these"
    status = path.stat()
    rows[0]["output"] = rows[0]["output"][:-1] + "!"
    write_rows(path, rows)
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a careless copy would
    changed = open_path(path)
    assert changed.fingerprint != first.fingerprint
    assert changed[0].turns[1].text.endswith("!")
    assert not first[0].turns[1].text.endswith("!"), "an open source stays as it was"


def test_weights_and_what_comes_behind_the_rows_do_not_read_them_again(
    tmp_path, cache, passes, rows
):
    path = str(write_rows(tmp_path / "x.jsonl", rows))
    for weight in (1.0, 2.0):
        source = open_source(DataConfig(sources=({"path": path, "weight": weight},)))
        assert source.weights == (weight,)
    open_path(path, max_length=64, template="chat")
    assert len(passes) == 1


def test_a_damaged_or_half_written_store_is_made_again(tmp_path, cache, passes, rows):
    path = write_rows(tmp_path / "x.csv", rows)
    fingerprint = open_path(path).fingerprint
    (name,) = stores(cache)
    with (cache / name / "examples.jsonl").open("ab") as file:
        file.write(b"x")
    (cache / f"{name}.part").mkdir()  # of a process that was killed
    again = open_path(path)
    assert (len(passes), again.fingerprint, len(list(again.read()))) == (2, fingerprint, 7)
    (cache / name / "index.json").write_text("{")
    assert open_path(path).fingerprint == fingerprint
    assert stores(cache) == [name]


def test_nothing_is_left_of_rows_that_are_bad(tmp_path, cache, rows):
    path = write_rows(tmp_path / "x.jsonl", [*rows, {"a": 1}])
    with pytest.raises(LopeError, match="line 8"):
        open_path(path)
    assert stores(cache) == []


def test_rows_that_change_while_they_are_read_are_refused(tmp_path, cache, monkeypatch, rows):
    path = write_rows(tmp_path / "x.jsonl", rows)
    original = records._Pass.run

    def read_all(*args):
        index = original(*args)
        write_rows(path, rows[:3])
        return index

    monkeypatch.setattr(records._Pass, "run", read_all)
    with pytest.raises(LopeError, match=r"x\.jsonl'"):
        open_path(path)
    assert stores(cache) == []


def test_a_cache_that_cannot_be_written_is_explained(tmp_path, monkeypatch, rows):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOPE_DATA_CACHE", str(tmp_path / "file"))
    path = write_rows(tmp_path / "x.jsonl", rows)
    with pytest.raises(LopeError, match=r"'.*/file'.*LOPE_DATA_CACHE"):
        open_path(path)


def test_the_default_cache_is_the_common_one(tmp_path, monkeypatch, rows):
    monkeypatch.delenv("LOPE_DATA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    open_path(write_rows(tmp_path / "x.jsonl", rows))
    assert stores(tmp_path / "xdg" / "lope_dist" / "data")


def test_a_source_travels_to_another_process_and_outlives_its_files(tmp_path, cache, rows):
    source = open_path(write_rows(tmp_path / "x.jsonl", rows))
    examples = list(source.read())
    assert list(pickle.loads(pickle.dumps(source)).read()) == examples
    (name,) = stores(cache)
    for file in (cache / name).iterdir():
        file.unlink()
    assert source[6] == examples[6]
    assert list(source.read()) == examples


def test_processes_that_open_the_same_file_at_once_read_it_once(tmp_path, cache):
    path = write_rows(
        tmp_path / "x.jsonl.gz", [{"instruction": "a", "output": str(i)} for i in range(50_000)]
    )
    code = OPEN + (
        "from lope_dist.corpus.examples import source as records\n"
        "original = records._Pass.run\n"
        "def read_all(*args):\n"
        "    print('reads'); return original(*args)\n"
        "records._Pass.run = read_all\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "source = open_source(DataConfig(path=sys.argv[1]))\n"
        "print(source.fingerprint, source[49_999].turns[1].text)\n"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    try:
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            worker.stdin.write("\n")
            worker.stdin.flush()
        outputs = [worker.communicate(timeout=60)[0].splitlines() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert sorted(map(len, outputs)) == [1, 1, 2], "one of them reads the rows"
    assert len({output[-1] for output in outputs}) == 1
    assert outputs[0][-1].endswith(" 49999")
    assert len(stores(cache)) == 1


def test_a_process_killed_in_the_middle_leaves_no_store(tmp_path, cache, rows):
    path = write_rows(tmp_path / "x.jsonl", rows)
    code = OPEN + (
        "import os\n"
        "from lope_dist.corpus.examples.store import StoreWriter\n"
        "StoreWriter.finish = lambda *a: os.kill(os.getpid(), 9)\n"
        "open_source(DataConfig(path=sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60)
    assert done.returncode == -9
    assert [name[-5:] for name in stores(cache)] == [".part"]
    assert len(open_path(path)) == 7
    assert len(stores(cache)) == 1


PEAK = """
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
"""

MEASURE = (
    OPEN
    + PEAK
    + """
peaks = {}
for path in sys.argv[1:]:
    source = open_source(DataConfig(path=path))
    length = sum(len(example.turns[1].text) for example in source.read())
    peaks[path.rpartition("/")[2]] = [peak(), length]
import json
print(json.dumps(peaks))
"""
)


@pytest.mark.thorough
def test_memory_does_not_grow_with_the_data(tmp_path, cache):
    """Reading and opening 20 times the rows needs the same memory; 1.10 allows for noise."""
    suffixes = (".jsonl", ".jsonl.zst", ".csv", ".json", ".parquet", ".arrow")

    def measure(count):
        folder = tmp_path / str(count)
        folder.mkdir()
        rows = [{"instruction": f"q {i}", "output": f"{i} " + "word " * 250} for i in range(count)]
        paths = [str(write_rows(folder / f"x{suffix}", rows)) for suffix in suffixes]
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *paths], stdout=subprocess.PIPE, timeout=120, check=True
        )
        return json.loads(done.stdout)

    small, large = measure(600), measure(12_000)
    assert all(large[name][1] > 19 * small[name][1] > 10**7 for name in small)
    ratios = {name: large[name][0] / small[name][0] for name in small}
    assert max(ratios.values()) < 1.10, ratios


def test_a_long_line_is_never_in_memory(tmp_path, cache):
    """It has 320 MiB; what is bearable of it is 64 MiB and a copy of them."""
    with gzip.open(tmp_path / "x.jsonl.gz", "wb", compresslevel=1) as file:
        file.write(b'{"prompt": "a", "completion": "b"}\n')
        for _ in range(320):
            file.write(b"x" * (1 << 20))
    code = (
        OPEN
        + PEAK
        + (
            "source = open_source(DataConfig(path=sys.argv[1], max_bad_rows=0.5))\n"
            "print(len(source), source.bad_rows.counts, peak() >> 10)\n"
        )
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.jsonl.gz")],
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    told, _, mib = done.stdout.strip().rpartition(" ")
    assert told == "1 {'too long': 1}"
    assert int(mib) < 290
