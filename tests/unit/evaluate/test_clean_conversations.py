"""`lope clean` on conversations that become several examples: it judges rows."""

from __future__ import annotations

import json

import pytest
from support.chat_families import FAMILIES

from lope_dist.core.runlog import read_lines
from lope_dist.evaluate.noisy_rows.clean import CleanRequest, clean_file
from lope_dist.evaluate.noisy_rows.scorers import scorer_of_base


@pytest.fixture
def conversations(tiny_config, tmp_path):
    """Return a maker of a file of conversations and of a scorer whose template splits them."""
    template = FAMILIES["qwen3"].template
    config = tiny_config(data__template="chat", model__chat_template=template)

    def make(rows: list[list[dict]]):
        path = tmp_path / "conversations.jsonl"
        path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
        scorer = scorer_of_base(
            config, tmp_path / "scores", world=None, base="auto", progress=False
        )
        return path, scorer

    return make


def said(*texts: str, **of_last) -> list[dict]:
    roles = ("user", "assistant") * len(texts)
    turns = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]
    turns[-1] |= of_last
    return turns


def test_only_a_row_that_says_the_same_as_a_whole_is_a_copy(conversations, tmp_path) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "a"}}}
    other = {"type": "function", "function": {"name": "look", "arguments": {"at": "b"}}}
    rows = [
        said("Hello", "Hi.", "How are you?", "Well."),
        said("Hello", "Hi.", "What is one and one?", "Two."),  # begins like the first
        said("hello ", "Hi.", "How are  you?", "WELL."),  # a copy
        said("Hello", "Hi."),
        said("Look", "", tool_calls=[call]),
        said("Look", "", tool_calls=[other]),
        said("Think", "So.", reasoning_content="this"),
        said("Think", "So.", reasoning_content="that"),
    ]
    path, scorer = conversations(rows)
    request = CleanRequest(str(path), tmp_path / "kept.jsonl", drop=0.01, duplicates=True)
    summary = clean_file(scorer, request, progress=False)
    assert summary["dropped"] == {"copy": 1}
    (dropped,) = read_lines(request.out.with_suffix(".dropped.jsonl"))
    assert dropped["lope_clean"] == {"reason": "copy", "copies_before": 1, "row": 3}
    by_copies = CleanRequest(str(path), tmp_path / "by.jsonl", drop=0.13, by="copies")
    clean_file(scorer, by_copies, progress=False)
    (dropped,) = read_lines(by_copies.out.with_suffix(".dropped.jsonl"))
    assert dropped["lope_clean"]["row"] == 3


def test_the_threshold_is_one_of_rows_and_not_of_their_examples(conversations, tmp_path) -> None:
    """Of rows with several examples the noisiest one counts, on both sides of the threshold."""
    rows = [said(f"Say {n}", "x" * 40, "And now?", "y" * n) for n in range(1, 21)]
    path, scorer = conversations(rows)
    request = CleanRequest(str(path), tmp_path / "kept.jsonl", clean=str(path), by="brevity")
    summary = clean_file(scorer, request, progress=False)
    assert summary["num_rows"] == 20
    assert len(list(read_lines(request.out))) == 20
