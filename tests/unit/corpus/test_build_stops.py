"""A build that is killed, or whose workers are, goes on to the same bytes."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace

import pytest
from support.corpora import content, make

from lope_dist.core.errors import LopeError
from lope_dist.corpus.built import build as building
from lope_dist.corpus.built import shards as writing
from lope_dist.corpus.built.corpus import BuiltCorpus
from lope_dist.corpus.built.manifest import MANIFEST


def killed_at(point, recipe, folder, workers):
    """Build in a process that is killed with -9 at a point; return what it left."""

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    def run():
        if point == "in a shard":
            counted = iter(range(99))
            original = writing._columns
            writing._columns = lambda *a: original(*a) if next(counted) < 3 else die()
        elif point == "between shards":
            original_shard, made = building.make_shard, iter(range(99))
            building.make_shard = lambda *a: original_shard(*a) if next(made) < 4 else die()
        else:
            building.finish = die
        make(recipe, folder, workers=workers)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    return process.exitcode, content(folder)


@pytest.mark.parametrize("point", ["in a shard", "between shards", "before the manifest"])
def test_a_killed_build_goes_on(built, tmp_path, monkeypatch, point):
    recipe, folder = built
    cut = tmp_path / "cut"
    status, left = killed_at(point, recipe, cut, workers=1)
    assert status == -signal.SIGKILL
    whole = {n: c for n, c in left.items() if n.endswith(".arrow")}
    assert len(whole) == {"in a shard": 3, "between shards": 4, "before the manifest": 15}[point]
    assert any(name.endswith(".tmp") for name in left) == (point == "in a shard")
    assert MANIFEST not in left
    with pytest.raises(LopeError, match=r"/cut .*`lope corpus merge`"):
        BuiltCorpus(cut)
    before = {name: (cut / name).stat().st_mtime_ns for name in whole}
    result = make(recipe, cut, workers=2)
    assert result.found == len(whole)
    assert {name: (cut / name).stat().st_mtime_ns for name in whole} == before
    assert content(cut) == content(folder)


def test_a_killed_worker_is_told_and_its_build_goes_on(built, tmp_path):
    recipe, folder = built
    cut = tmp_path / "cut"

    def run():
        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        building.make_shard = die
        try:
            make(recipe, cut, workers=2)
        except LopeError as error:
            os._exit(7 if "A worker of the build" in str(error) else 1)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == 7
    make(recipe, cut)
    assert content(cut) == content(folder)


def test_workers_go_with_a_killed_build(make_recipe, tmp_path):
    recipe, folder = make_recipe(), tmp_path / "cut"
    seen = tmp_path / "workers"
    seen.mkdir()

    def run():
        def wait(*_):
            (seen / str(os.getpid())).touch()
            time.sleep(60)

        building.make_shard = wait
        make(recipe, folder, workers=2)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    until(lambda: len(list(seen.iterdir())) == 2)
    with pytest.raises(LopeError, match=r"/cut: .*node 0 of 1.*--node-rank"):
        make(recipe, folder)
    process.kill()
    process.join(10)
    until(lambda: not any(is_alive(int(p.name)) for p in seen.iterdir()))
    assert make(recipe, folder).made == 15


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, timeout_s=20):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_error_in_a_worker_ends_the_build_with_its_sentence(make_recipe, tmp_path, tokenizer):
    recipe = make_recipe(template="chat")
    tokenizer.chat_template = None
    recipe = replace(recipe, form=replace(recipe.form))
    with pytest.raises(LopeError, match=r"data\.template = 'chat'.*data\.template=alpaca"):
        make(recipe, tmp_path / "bad", workers=2)
