"""Prompts of `lope eval --apply-chat-template`: those that the run was trained with."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest

from lope_dist.evaluate.harness import suite
from lope_dist.evaluate.harness.lm import LopeLM
from lope_dist.evaluate.harness.suite import EvalRequest, evaluate_run


@pytest.fixture
def chat_run(loaded, monkeypatch: pytest.MonkeyPatch):
    """Return a maker of the loaded run with a template that reads the date and an argument."""
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = (
        "{% set begin = 'assistant: ' if thinks else 'assistant: <quiet>' %}"
        "{{ strftime_now('%d %b') }}|{% for m in messages %}"
        "{{ begin if m.role == 'assistant' else m.role + ': ' }}{{ m.content + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ begin }}{% endif %}"
    )

    def make(**data) -> None:
        data = loaded.config.data.model_copy(update={"template": "chat"} | data)
        config = loaded.config.model_copy(update={"data": data})
        run = replace(loaded, config=config, tokenizer=tokenizer)
        monkeypatch.setattr(suite, "load_run", lambda folder, **_: run)
        monkeypatch.setattr(suite, "load_run_config", lambda folder: config)

    return make


def test_chat_prompts_are_those_of_training(
    run_copy: Path, task_dir: Path, chat_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, scores = [], LopeLM.loglikelihood
    monkeypatch.setattr(
        LopeLM,
        "loglikelihood",
        lambda lm, asked, **options: (
            prompts.append(asked[0].args[0]) or scores(lm, asked, **options)
        ),
    )
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    request = EvalRequest(
        ("tiny_choice",), ("all",), str(task_dir), limit=1, apply_chat_template=True
    )

    def asked() -> tuple[list[str], dict]:
        prompts.clear()
        (row,) = evaluate_run(run_copy, request)["rows"]
        return prompts[:], row["tasks"]["tiny_choice"]

    chat_run(template_date="2025-01-31")
    assert asked()[0] == ["31 Jan|user: Add one and two.\nassistant: <quiet>"]
    assert asked()[0] == [], "it is scored"
    chat_run(template_date="2025-01-31", template_arguments={"thinks": True})
    thinking, figures = asked()
    assert thinking == ["31 Jan|user: Add one and two.\nassistant: "], (
        "another prompt, so scored again"
    )
    assert figures["template_arguments"] == {"thinks": True}
    assert figures["template_date"] == "2025-01-31"
    assert asked()[0] == []
