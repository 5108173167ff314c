"""Files of earlier versions: their words for the rows of experts are read as those of today."""

import json
from pathlib import Path
from typing import Any

from lope_dist.core.questions import read_scores
from lope_dist.core.side_files import RESULTS, loss_file

SCORES = {"0": 1.0, "1": 0.0}


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_scores_losses_and_questions_of_before_are_found(tmp_path: Path) -> None:
    rows = [{"name": n, "tasks": {"piqa": {"acc": 0.5}}} for n in ("lope_masked", "base")]
    write(tmp_path / "results.json", {"rows": rows})
    write(tmp_path / "questions/lope_masked/piqa.json", {"scores": {"acc": SCORES}})
    losses = {"lope_unmasked": {}, "lope_masked_plain": {}, "masked_normal": {}}
    write(tmp_path / "losses/held_out.json", {"data": "held_out.jsonl", "rows": losses})

    results = RESULTS.read(tmp_path)
    assert results is not None
    assert [row["name"] for row in results["rows"]] == ["masked", "base"]
    (found,) = read_scores(tmp_path, results["rows"][0], "piqa", "acc")
    assert found.scores == {0: 1.0, 1: 0.0}
    table = loss_file("held_out.json").read(tmp_path / "losses")
    assert table is not None
    assert [*table["rows"]] == ["all", "masked_plain", "masked_normal"]

    write(tmp_path / "questions/masked/piqa.json", {"scores": {"acc": {"0": 0.5}}})
    (found,) = read_scores(tmp_path, results["rows"][0], "piqa", "acc")
    assert found.scores == {0: 0.5}  # written since, under today's name
