"""The same corpus from any number of processes and nodes, and after any stop."""

import json
import shutil

import pytest
from support.corpora import content, flip, make

from lope_dist.config.noise import DataNoiseConfig, NoiseConfig, TextNoiseConfig
from lope_dist.core.errors import LopeError, NewerFormat
from lope_dist.core.fingerprint import tokenizer_hash
from lope_dist.corpus.built import build as building
from lope_dist.corpus.built.build import merge
from lope_dist.corpus.built.corpus import BuiltCorpus, verify
from lope_dist.corpus.built.manifest import MANIFEST, PLAN, SHARDS, read_manifest, spans_of
from lope_dist.corpus.tokens.encode import IGNORED, encode
from lope_dist.corpus.tokens.prompts import Form
from lope_dist.corpus.tokens.views import stage_views


def test_rows_are_what_training_would_make(built):
    recipe, folder = built
    corpus = BuiltCorpus(folder)
    assert corpus.manifest.fingerprint.views == ("clean", "noisy-0", "noisy-1")
    ids = [21, 0, 7, 4, 5]
    for view in corpus.manifest.fingerprint.views:
        views = stage_views(
            [recipe.source[i] for i in ids],
            recipe.source,
            recipe.noise,
            injects_text=view != "clean",
            seed=recipe.seed,
            epoch=int(view[-1]) if view != "clean" else 0,
        )
        expected = encode(
            [v.example for v in views], Form(recipe.form.tokenizer, "alpaca", 240, False)
        )
        assert [row.tokens for row in corpus.rows(view, ids)] == expected
        assert [row.hits for row in corpus.rows(view, ids)] == [v.hits for v in views]
        assert any(t.was_cut for t in expected)
        assert any(label != IGNORED for t in expected for label in t.labels)


def test_encoder_decoder_rows_have_labels_of_their_own(make_recipe, tmp_path):
    recipe = make_recipe(kind=True)
    make(recipe, tmp_path / "pairs")
    corpus = BuiltCorpus(tmp_path / "pairs")
    clean = NoiseConfig(data=recipe.noise.data)
    views = stage_views(
        [recipe.source[i] for i in (3, 20)],
        recipe.source,
        clean,
        injects_text=False,
        seed=614,
        epoch=0,
    )
    expected = encode([v.example for v in views], Form(recipe.form.tokenizer, "alpaca", 240, True))
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
        assert counts["hits"]
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
    with pytest.raises(LopeError, match=r"8 of 15 .*clean-000000\.arrow, "):
        merge([part])
    make(make_recipe(seed=1), other, node_rank=0, num_nodes=2)
    with pytest.raises(LopeError, match=r"different corpora \(seed: 1 -> 614\)"):
        merge([part, other])
    with pytest.raises(LopeError, match="/nothing "):
        merge([tmp_path / "nothing"])
    record = folder / SHARDS / "clean-000001.json"
    record.write_text(record.read_text().replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(LopeError, match=r"clean-000001\.arrow"):
        merge([part, folder])
    shutil.copytree(folder / SHARDS, part / SHARDS, dirs_exist_ok=True)
    (part / SHARDS / "clean-000000.json").unlink()
    record.unlink()
    flip(folder / SHARDS / "clean-000000.arrow")
    with pytest.raises(LopeError, match=r"clean-000000\.arrow"):
        merge([part, folder])


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


def test_a_damaged_manifest_is_made_anew(built, capsys):
    recipe, folder = built
    before = content(folder)
    for damage in (b"", b"[]", b"\xff", before["manifest.json"][:900]):
        (folder / MANIFEST).write_bytes(damage)
        assert make(recipe, folder).made == 0
        assert "Made anew: " in capsys.readouterr().err
        assert content(folder) == before


@pytest.mark.parametrize("name", [MANIFEST, PLAN])
def test_a_corpus_of_a_newer_version_is_refused_and_left(built, name):
    recipe, folder = built
    tree = json.loads((folder / name).read_text()) | {"format": 2, "new": 1}
    (folder / name).write_text(json.dumps(tree))
    before = content(folder)
    refused = [lambda: make(recipe, folder), lambda: merge([folder])]
    refused += [lambda: read_manifest(folder)] if name == MANIFEST else []
    for action in refused:
        with pytest.raises(NewerFormat, match=rf"{name} .*format 2.* up to 1"):
            action()
    assert content(folder) == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 1}, r"\(seed: 614 -> 1\)"),
        ({"count": 21}, r"source: .*num_examples: 22 -> 21\)"),
        ({"max_length": 239}, r"\(max_length: 240 -> 239\)"),
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
                update={"tokenizer": tokenizer_hash(tokenizer)}
            )
        }
    )
    with pytest.raises(LopeError, match=r"\(tokenizer: "):
        building.claim(changed, folder)


def test_spans_cover_every_example_once(make_recipe):
    spans = spans_of(make_recipe().plan.fingerprint)
    assert len({span.file for span in spans}) == len(spans)
    for view in ("clean", "noisy-0", "noisy-1"):
        own = [i for s in spans if s.view == view for i in range(s.first, s.end)]
        assert own == list(range(22))
    assert [s.view for s in spans[::5]] == ["clean", "noisy-0", "noisy-1"]
