"""Scores and losses of another adapter than the run's are in no table."""

import json

from support.made_up_run import LOSSES, RESULTS, metric_lines, write_metrics

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
