"""A run over several sources, one of them with bad rows."""

import json
from pathlib import Path

import pytest
from support.row_files import write_bytes

from lope_dist.config.load import dump_config, load_config
from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_lines
from lope_dist.train.premises.preflight import with_settled
from lope_dist.train.session import train


def test_a_run_over_two_sources_tells_what_it_left_out(tiny_config, tmp_path: Path, capsys) -> None:
    good = [json.dumps({"prompt": f"Say {i}.", "completion": str(i)}) for i in range(9)]
    pairs = write_bytes(tmp_path / "pairs.jsonl.gz", "\n".join([*good, "{"]).encode())
    text = write_bytes(tmp_path / "documents.txt", b"One.\nTwo.\nThree.\nFour.\n")
    sources = [{"path": str(pairs), "weight": 2}, {"path": str(text), "weight": 0.5}]
    data = {"path": None, "sources": sources, "max_length": 256, "max_bad_rows": 0.1}
    config = tiny_config(data=data, train__stages__poison__epochs=2)
    folder = train(config)
    told = capsys.readouterr().err
    assert f"1 of 14 rows are bad (not valid JSON: 1) and left out:\n  {pairs}, line 10: " in told
    lines = list(read_lines(folder / "metrics.jsonl"))
    steps = [line["step"] for line in lines if line["stage"] == "poison"]
    assert len(steps) == 2 * 3, "of an epoch of 2 * 9 + 2 visits, 8 a step"
    settled = with_settled(config, attention="sdpa", packing=True)
    assert load_config(folder / "run.yaml") == settled
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config
    text.write_bytes(b"One.\nTwo.\nThree.\nFive.\n")
    with pytest.raises(LopeError, match=r"pairs\.jsonl\.gz.*documents\.txt'"):
        train(config, resume=True)
