"""The same corpus from any number of processes and nodes, and after any stop."""

import json
import multiprocessing
import os
import shutil
import signal
import time

import pytest

from lope_dist.config.noise import DataNoiseConfig, NoiseConfig, TextNoiseConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus import build as building
from lope_dist.corpus import shards as writing
from lope_dist.corpus.build import build
from lope_dist.corpus.built import BuiltCorpus
from lope_dist.corpus.manifest import MANIFEST, PLAN, SHARDS
from lope_dist.corpus.merge import merge
from lope_dist.corpus.plan import spans_of
from lope_dist.corpus.tokens import IGNORED, encode
from lope_dist.corpus.verify import verify
from lope_dist.corpus.views import stage_view


def make(recipe, folder, **settings):
    return build(recipe, folder, progress=False, **settings)


def content(folder):
    """Return every file of a corpus but the locks: name -> bytes."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture
def built(make_recipe, tmp_path):
    """A corpus of 22 examples in shards of 5, clean and two noisy epochs; its recipe."""
    recipe = make_recipe()
    folder = tmp_path / "built"
    result = make(recipe, folder)
    assert (result.made, result.found) == (15, 0)
    return recipe, folder


def test_rows_are_what_training_would_make(built):
    recipe, folder = built
    corpus = BuiltCorpus(folder)
    assert corpus.manifest.fingerprint.views == ("clean", "noisy-0", "noisy-1")
    ids = [21, 0, 7, 4, 5]
    for view in corpus.manifest.fingerprint.views:
        examples = [
            stage_view(
                recipe.source[i],
                recipe.noise,
                injects_text=view != "clean",
                seed=recipe.seed,
                epoch=int(view[-1]) if view != "clean" else 0,
            )
            for i in ids
        ]
        expected = encode(examples, "alpaca", recipe.tokenizer, 240, False)
        assert [row.tokens for row in corpus.rows(view, ids)] == expected
        assert any(t.was_cut for t in expected)
        assert any(label != IGNORED for t in expected for label in t.labels)


def test_encoder_decoder_rows_have_labels_of_their_own(make_recipe, tmp_path):
    recipe = make_recipe(kind=True)
    make(recipe, tmp_path / "pairs")
    corpus = BuiltCorpus(tmp_path / "pairs")
    clean = NoiseConfig(data=recipe.noise.data)
    views = [
        stage_view(recipe.source[i], clean, injects_text=False, seed=614, epoch=0) for i in (3, 20)
    ]
    expected = encode(views, "alpaca", recipe.tokenizer, 240, True)
    assert [row.tokens for row in corpus.rows("clean", [3, 20])] == expected
    counts = corpus.manifest.counts["clean"]
    rows = corpus.rows("clean", range(22))
    assert counts["target_tokens"] == sum(len(r.tokens.labels) for r in rows)
    assert counts["tokens"] == counts["target_tokens"] + sum(len(r.tokens.input_ids) for r in rows)


def test_counts(built):
    _, folder = built
    manifest = BuiltCorpus(folder).manifest
    for view, counts in manifest.counts.items():
        rows = BuiltCorpus(folder).rows(view, range(22))
        assert counts["examples"] == 22
        assert counts["tokens"] == sum(len(row.tokens.input_ids) for row in rows)
        targets = [label for r in rows for label in r.tokens.labels[1:] if label != IGNORED]
        assert counts["target_tokens"] == len(targets)
        assert counts["cut"] == sum(row.tokens.was_cut for row in rows) > 0
        for name, hits in counts["hits"].items():
            assert hits == sum(row.hits.get(name, 0) for row in rows)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("num_nodes", [2, 3])
def test_processes_and_nodes_make_the_same_bytes(built, tmp_path, workers, num_nodes):
    recipe, folder = built
    other = tmp_path / "other"
    for node in reversed(range(num_nodes)):
        part = make(recipe, other, node_rank=node, num_nodes=num_nodes, workers=workers)
        assert part.manifest is None
        assert not (other / MANIFEST).exists()
    assert merge([other]) == verify(folder, progress=False)
    assert content(other) == content(folder)


def test_parts_in_folders_of_their_own_are_copied_together(built, tmp_path):
    recipe, folder = built
    parts = [tmp_path / f"part{node}" for node in range(2)]
    for node, part in enumerate(parts):
        make(recipe, part, node_rank=node, num_nodes=2)
    alone = content(parts[1])
    merge(parts)
    assert content(parts[0]) == content(folder)
    assert content(parts[1]) == alone


def test_missing_and_different_parts_are_named(built, make_recipe, tmp_path):
    recipe, folder = built
    part, other = tmp_path / "part", tmp_path / "other"
    make(recipe, part, node_rank=1, num_nodes=2)
    with pytest.raises(LopeError, match=r"8 of 15 shards are missing: clean-000000\.arrow, "):
        merge([part])
    make(make_recipe(seed=1), other, node_rank=0, num_nodes=2)
    with pytest.raises(LopeError, match=r"different corpora \(seed: 1 -> 614\)"):
        merge([part, other])
    with pytest.raises(LopeError, match="holds no part"):
        merge([tmp_path / "nothing"])
    record = folder / SHARDS / "clean-000001.json"
    record.write_text(record.read_text().replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(LopeError, match=r"clean-000001\.arrow is in .* different content"):
        merge([part, folder])
    shutil.copytree(folder / SHARDS, part / SHARDS, dirs_exist_ok=True)
    (part / SHARDS / "clean-000000.json").unlink()
    record.unlink()
    flip(folder / SHARDS / "clean-000000.arrow")
    with pytest.raises(LopeError, match=r"clean-000000\.arrow is damaged"):
        merge([part, folder])


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
    with pytest.raises(LopeError, match="is not finished"):
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
            os._exit(7 if "A worker died" in str(error) else 1)

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
    with pytest.raises(LopeError, match="another process builds the part of node 0 of 1"):
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
    with pytest.raises(LopeError, match="the tokenizer has no chat template"):
        make(recipe, tmp_path / "bad", workers=2)


def test_a_finished_corpus_is_reused(built):
    recipe, folder = built
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.arrow")}
    before[folder / MANIFEST] = (folder / MANIFEST).stat().st_mtime_ns
    again = make(recipe, folder, workers=3)
    assert (again.made, again.found) == (0, 15)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_lost_shard_is_made_again(built):
    recipe, folder = built
    before = content(folder)
    (folder / SHARDS / "noisy-1-000002.arrow").unlink()
    (folder / SHARDS / "clean-000004.arrow").write_bytes(b"short")
    assert make(recipe, folder).made == 2
    assert content(folder) == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 1}, r"\(seed: 614 -> 1\)"),
        ({"count": 21}, r"source: .*num_examples: 22 -> 21\)"),
        ({"max_length": 100}, r"\(max_length: 240 -> 100\)"),
        ({"template": "chat"}, r"\(template: 'alpaca' -> 'chat [0-9a-f]{16}'\)"),
        ({"epochs": 1}, r"\(views: "),
        ({"shard_examples": 6}, r"\(shard_examples: 5 -> 6\)"),
        ({"kind": True}, r"\(model: 'decoder' -> 'encoder-decoder'\)"),
        ({"noise": NoiseConfig(text=TextNoiseConfig(rate=0.3))}, r"\(data_noise: "),
        (
            {"noise": NoiseConfig(text=TextNoiseConfig(rate=0.2), data=DataNoiseConfig(rate=0.1))},
            r"\(text_noise: .*'rate': 0\.3.* -> .*'rate': 0\.2",
        ),
    ],
)
def test_another_corpus_is_refused_with_the_difference(built, make_recipe, changes, told):
    _, folder = built
    before = content(folder)
    with pytest.raises(LopeError, match=told):
        make(make_recipe(**changes), folder)
    assert content(folder) == before


def test_another_tokenizer_is_refused(built, tokenizer):
    recipe, folder = built
    tokenizer.add_tokens(["new"])
    changed = recipe.plan.model_copy(
        update={
            "fingerprint": recipe.plan.fingerprint.model_copy(
                update={"tokenizer": building_hash(tokenizer)}
            )
        }
    )
    with pytest.raises(LopeError, match=r"\(tokenizer: "):
        building.claim(changed, folder)


def building_hash(tokenizer):
    from lope_dist.corpus.plan import tokenizer_hash

    return tokenizer_hash(tokenizer)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: flip(f / SHARDS / "noisy-0-000003.arrow"), r"noisy-0-000003\.arrow has another"),
        (lambda f: (f / SHARDS / "clean-000000.arrow").unlink(), r"clean-000000\.arrow is missing"),
        (
            lambda f: shutil.copy(
                f / SHARDS / "clean-000000.arrow", f / SHARDS / "clean-000009.arrow"
            ),
            r"clean-000009\.arrow is in the folder and not in",
        ),
    ],
)
def test_verify_finds(built, damage, told):
    _, folder = built
    verify(folder, progress=False)
    damage(folder)
    with pytest.raises(LopeError, match=told):
        verify(folder, progress=False)


def forge(folder, change):
    """Change the list of shards in a manifest and make its hash and counts fit again."""
    from lope_dist.corpus.manifest import Plan, ShardRecord, make_manifest

    tree = json.loads((folder / MANIFEST).read_text())
    change(tree["shards"])
    plan = Plan.model_validate(json.loads((folder / PLAN).read_text()))
    shards = [ShardRecord.model_validate(shard) for shard in tree["shards"]]
    manifest = make_manifest(plan, shards)
    (folder / MANIFEST).write_text(manifest.model_dump_json())


@pytest.mark.parametrize(
    "name", ["../../secret.arrow", "/etc/passwd", "..", "sub/clean-000000.arrow"]
)
def test_a_manifest_leads_nowhere_else(built, name):
    _, folder = built
    forge(folder, lambda shards: shards[0].update(file=name))
    for action in (lambda: verify(folder, progress=False), lambda: BuiltCorpus(folder)):
        with pytest.raises(LopeError, match=f"lists the shard {name!r}"):
            action()


def test_links_are_not_followed(built, tmp_path):
    _, folder = built
    path = folder / SHARDS / "clean-000000.arrow"
    path.rename(tmp_path / "elsewhere.arrow")
    path.symlink_to(tmp_path / "elsewhere.arrow")
    with pytest.raises(LopeError, match=r"lists the shard 'clean-000000\.arrow', which is no file"):
        verify(folder, progress=False)


def test_a_forged_manifest_is_found(built):
    _, folder = built
    forge(folder, lambda shards: shards.append(shards[0]))
    with pytest.raises(LopeError, match="does not list each shard once"):
        verify(folder, progress=False)
    tree = json.loads((folder / MANIFEST).read_text())
    tree["counts"]["clean"]["tokens"] += 1
    (folder / MANIFEST).write_text(json.dumps(tree))
    with pytest.raises(LopeError, match="was changed after it was written"):
        verify(folder, progress=False)
    (folder / MANIFEST).write_text("{}")
    with pytest.raises(LopeError, match="is not of the form"):
        verify(folder, progress=False)


def test_spans_cover_every_example_once(make_recipe):
    spans = spans_of(make_recipe().plan.fingerprint)
    assert len({span.file for span in spans}) == len(spans)
    for view in ("clean", "noisy-0", "noisy-1"):
        own = [i for s in spans if s.view == view for i in range(s.first, s.end)]
        assert own == list(range(22))
    assert [(s.epoch, s.injects_text) for s in spans[::5]] == [(0, False), (0, True), (1, True)]
