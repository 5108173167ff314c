"""Scores and losses of another adapter than the run's are in no table."""

import json

from support.made_up_run import LOSSES, RESULTS, metric_lines, write_metrics

from lope_dist.report.current import of_now
from lope_dist.report.html import write_report
from lope_dist.report.read import read_run, score_table


def test_figures_of_another_adapter_are_left_out_and_told(tmp_path, capsys):
    run = tmp_path
    write_metrics(run, metric_lines("finetune", 10, 1e9))
    (run / "losses").mkdir()
    for name, sha in (("1-poison", "a"), ("2-finetune-step-000010", "b"), ("2-finetune", "c")):
        folder = run / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "adapter.json").write_text(json.dumps({"sha256": sha}))
    base, masked = RESULTS["rows"]
    named = {"all": "b", "masked@1-poison": "a", "all@1-poison": "x", "masked@9-gone": "y"}
    rows = [
        base | {"adapter_sha256": "b"},
        masked | {"adapter_sha256": "c"},
        masked | {"name": "k"},
    ]
    rows += [masked | {"name": n, "adapter_sha256": sha} for n, sha in named.items()]
    results = RESULTS | {"rows": rows}
    (run / "results.json").write_text(json.dumps(results))
    measured = LOSSES["rows"]["base"]
    losses = {
        "base": measured | {"adapter_sha256": None},
        "all": measured | {"adapter_sha256": "b"},
    }
    (run / "losses" / "test.json").write_text(json.dumps(LOSSES | {"rows": losses}))
    samples = {"checkpoint": "1-poison", "adapter_sha256": "a"}
    samples["samples"] = [{"prompt": "p", "expected": "e", "answers": {"base": "x"}}]
    (run / "samples.json").write_text(json.dumps(samples))
    read = read_run(run)
    kept = ["base", "masked", "k", "masked@1-poison", "masked@9-gone"]
    assert score_table(read.results).models == kept
    assert list(read.losses["test.json"]["rows"]) == ["base"]
    told = capsys.readouterr().err
    assert "results.json: all, all@1-poison left out" in told
    assert "losses/test.json: all left out" in told
    text = " ".join(write_report(run).read_text(encoding="utf-8").split())
    assert "newest checkpoint's: all, all@1-poison." in text.replace("&#39;", "'")
    assert "checkpoint 1-poison, which is not the newest." in text


def test_what_was_just_scored_is_shown_while_its_run_trains_on(tmp_path, capsys):
    for name, sha in (("1-poison-step-000005", "a"), ("1-poison-step-000010", "b")):
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "adapter.json").write_text(json.dumps({"sha256": sha}))
    (_, masked) = RESULTS["rows"]
    table = RESULTS | {"rows": [masked | {"adapter_sha256": "a"}]}
    assert of_now(table, tmp_path, "results.json", meant="a") == table
    assert of_now(table, tmp_path, "results.json")["rows"] == []
    (tmp_path / "results.json").write_text(json.dumps(table))
    write_metrics(tmp_path, metric_lines("poison", 10, 1e9))
    page = " ".join(write_report(tmp_path).read_text(encoding="utf-8").split())
    assert "adapter than the newest checkpoint's: masked." in page.replace("&#39;", "'")
