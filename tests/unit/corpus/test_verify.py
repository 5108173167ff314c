"""Damaged shards and forged manifests are found and lead nowhere."""

import json
import shutil

import pytest
from support.corpora import flip

from lope_dist.core.errors import LopeError
from lope_dist.corpus.built.corpus import BuiltCorpus, verify
from lope_dist.corpus.built.manifest import MANIFEST, PLAN, SHARDS, Plan, ShardRecord, make_manifest


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: flip(f / SHARDS / "noisy-0-000003.arrow"), r"noisy-0-000003\.arrow"),
        (lambda f: (f / SHARDS / "clean-000000.arrow").unlink(), r"clean-000000\.arrow"),
        (
            lambda f: shutil.copy(
                f / SHARDS / "clean-000000.arrow", f / SHARDS / "clean-000009.arrow"
            ),
            r"clean-000009\.arrow",
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
        with pytest.raises(LopeError, match=f"{name!r}"):
            action()


def test_links_are_not_followed(built, tmp_path):
    _, folder = built
    path = folder / SHARDS / "clean-000000.arrow"
    path.rename(tmp_path / "elsewhere.arrow")
    path.symlink_to(tmp_path / "elsewhere.arrow")
    with pytest.raises(LopeError, match=r"'clean-000000\.arrow'"):
        verify(folder, progress=False)


def test_a_forged_manifest_is_found(built):
    _, folder = built
    forge(folder, lambda shards: shards.append(shards[0]))
    with pytest.raises(LopeError, match=r"manifest.*\(clean-000000\.arrow\)"):
        verify(folder, progress=False)
    tree = json.loads((folder / MANIFEST).read_text())
    tree["counts"]["clean"]["tokens"] += 1
    (folder / MANIFEST).write_text(json.dumps(tree))
    with pytest.raises(LopeError, match=r"built/manifest\.json .*hash"):
        verify(folder, progress=False)
    (folder / MANIFEST).write_text("{}")
    with pytest.raises(LopeError, match=r"built/manifest\.json .*None"):
        verify(folder, progress=False)
