"""`samples.json`: answers to prompts that were not trained on, before training and after."""

from __future__ import annotations

from pathlib import Path

from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import write_json
from lope_dist.core.side_files import SAMPLES
from lope_dist.corpus.rows.turns import Example, Turn
from lope_dist.evaluate.asking import Decoding, reply, rows_of
from lope_dist.evaluate.loaded.load import load_run, load_run_config, run_checkpoint
from lope_dist.evaluate.loaded.rows import usual_answer
from lope_dist.train.checkpoint.choice import LAST
from lope_dist.train.premises.data import open_parts

_TOKENS = 96
_MOST_LOOKED_AT = 1000
"""Rows; those without a prompt, or with tools, are passed over."""


def write_samples(run_dir: Path, count: int, checkpoint: str = LAST) -> None:
    """Answer the first ``count`` validation prompts with the base model and the trained adapter.

    The likeliest token each time, so that the answers are the same each time.

    Raises:
        LopeError: not a run, or one without validation rows that have a prompt.
    """
    config = load_run_config(run_dir)
    chosen = run_checkpoint(run_dir, checkpoint)
    refusal = f"--samples: '{run_dir}' has no validation rows with a prompt"
    if config.data.validation is None:
        raise LopeError(f"{refusal}; train with data.validation.share or data.validation.path.")
    run = load_run(run_dir, checkpoint=chosen)
    _, validation = open_parts(config, run.tokenizer, run.model.config)
    assert validation is not None, "the configuration names them"
    looked_at = map(validation.__getitem__, range(min(_MOST_LOOKED_AT, len(validation))))
    prompts = [p for example in looked_at if (p := _prompt(example)) is not None][:count]
    if not prompts:
        raise LopeError(f"{refusal}; `lope generate` answers prompts of your own.")
    words = ["base", usual_answer(config.adapter, is_purified=False)]
    samples = []
    for turns, expected in prompts:
        answers = {}
        for row in rows_of(run, words):
            with run.context.answering(row):
                answers[row.name] = reply(run, turns, Decoding(max_new_tokens=_TOKENS))
        prompt = "\n".join(filter(None, (turns[-1].text, turns[-1].context)))
        samples.append({"prompt": prompt, "expected": expected, "answers": answers})
    answered = {"checkpoint": chosen.folder.name, "adapter_sha256": chosen.adapter_sha256}
    write_json(run_dir / SAMPLES.name, answered | {"samples": samples})


def _prompt(example: Example) -> tuple[list[Turn], str] | None:
    """Return the turns before an example's first answer that is learnt, and that answer."""
    if not example.learnt or example.tools or example.learnt[0] == 0:
        return None
    first = example.learnt[0]
    turns = list(example.turns[:first])
    return (turns, example.turns[first].text) if turns[-1].role == "user" else None
