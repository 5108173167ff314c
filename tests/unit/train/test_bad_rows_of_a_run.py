"""Bad rows before step 0, a resume after they were mended, and steps with nothing to learn."""

import json
import shutil
from pathlib import Path

import pytest

from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_json, read_lines
from lope_dist.train.session import train

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
    "{% endif %}{{ m.role + ': ' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def row(answer: str = "a", *before: dict[str, str]) -> str:
    question = {"role": "user", "content": "q"}
    messages = [*before, question, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages})


BAD = (
    ('{"messages": ', "not valid JSON"),
    (row("a", {"role": "narrator", "content": "x"}), "unknown role"),
    (row(" "), "empty response"),
    (row("a", {"role": "system", "content": "x"}), "refused by the template"),
    (json.dumps({"messages": [{"role": "user", "content": "q"}]}), "no response"),
)


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    text = json.dumps(settings | {"chat_template": TEMPLATE})
    (folder / "tokenizer_config.json").write_text(text)
    return folder


def test_ten_bad_rows_of_a_thousand(tiny_config, model: Path, tmp_path: Path, capsys) -> None:
    rows = [row(f"a{i}") for i in range(1000)]
    for number in range(10):
        rows[97 * number + 50] = BAD[number % 5][0]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(rows))
    settings = {
        "model__name_or_path": str(model),
        "data": {"path": str(path), "template": "chat", "max_length": 64},
        "train__stages__poison__max_steps": 1,
        "train__stages__finetune__max_steps": 1,
    }
    with pytest.raises(LopeError, match=r"rows\.jsonl, line 51: not valid JSON"):
        train(tiny_config(**settings))
    settings["data"] |= {"max_bad_rows": 0.02}
    config = tiny_config(**settings)
    run = train(config)
    told = capsys.readouterr().err
    assert "10 of 1000 " in told
    for _, kind in BAD:
        assert f"{kind}: 2" in told
    assert "  examples                             990" in told
    shutil.rmtree(run / "checkpoints" / "2-finetune")
    path.write_text("\n".join([*rows[:50], row("mended"), *rows[51:]]))
    with pytest.raises(LopeError, match=r"--accept-data-change"):
        train(config, resume=True)
    train(config, resume=True, accepts_other_data=True)
    first, *_, last = read_json(run / "manifest.json")["starts"]
    assert "accepted_data_change" not in first
    change = last["accepted_data_change"]
    assert change["after"] == "1-poison"
    assert change["from"] != change["to"]
    assert read_json(run / "state.json")["status"] == "finished"


def test_a_step_without_a_target_is_left_out(
    tiny_config, model: Path, tmp_path: Path, capsys
) -> None:
    long = json.dumps({"prompt": "q " * 200, "completion": "a"})
    rows = [json.dumps({"prompt": f"q{i}", "completion": f"a{i}"}) for i in range(4)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([long, long, *rows]))
    data = {"path": str(path), "template": "chat", "max_length": 64, "shuffle": False}
    settings = {"model__name_or_path": str(model), "data": data, "train__global_batch": 2}
    run = train(tiny_config(**settings))
    told = capsys.readouterr().err
    assert f"(behind the cut: {path}, line 1; {path}, line 2)" in told
    assert "Stage poison: 1 steps " in told
    steps = [(line["stage"], line["step"]) for line in read_lines(run / "metrics.jsonl")]
    assert steps == [("poison", 1), ("poison", 2), ("finetune", 1), ("finetune", 2)]
    assert read_json(run / "state.json")["progress"]["empty_steps"] == 1
