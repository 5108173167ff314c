"""Requests of several kinds and lengths, and all that a loaded run answers to them."""

from __future__ import annotations

from typing import Any

PAIRS = [
    ("Add one and two.", " Three."),
    ("Add one and two.", " Four, as I said."),
    ("Add one and two.", " Thref"),
    ("", "Hello"),
    ("A much longer question, so that rows are padded: what is it? ", "Yes"),
    ("Räksmörgås", " is a sandwich."),
    ("Count: 1 2 3 4", " 5"),
    ("Count: 1 2 3 4", " 6"),
    ("x" * 90, "y"),
]
TEXTS = ["A text.", "Another text, which is longer than the first one.", "Räksmörgås " * 9]
PROMPTS = [
    ("Say a word", {"until": ["."], "max_gen_toks": 3}),
    ("Say a sentence, and then some more of it", {"until": ["\n"], "max_gen_toks": 17}),
    ("Count", {"until": ["\n"], "max_gen_toks": 17}),
    ("Draw", {"until": ["\n"], "max_gen_toks": 9, "do_sample": True, "temperature": 0.9}),
    ("Stop", {"until": ["\n"], "max_gen_toks": 1}),
]


def all_answers(run: Any, data: str) -> dict[str, Any]:
    """Return the answers of every kind, JSON-able. Collective: yes, if ranks have loaded it."""
    from lm_eval.api.instance import Instance

    from lope_dist.evaluate.harness.lm import LopeLM
    from lope_dist.evaluate.losses.examples import open_examples
    from lope_dist.evaluate.losses.likelihood import iter_row_losses
    from lope_dist.evaluate.noisy_rows.scores import measure_rows

    def requests(kind: str, arguments: list) -> list:
        return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]

    found: dict[str, Any] = {}
    for size in (2, "auto"):
        lm = LopeLM(run, "all", batch_size=size)
        pairs, texts = requests("loglikelihood", PAIRS), [(text,) for text in TEXTS]
        found[f"loglikelihood {size}"] = lm.loglikelihood(pairs, disable_tqdm=True)
        found[f"rolling {size}"] = lm.loglikelihood_rolling(
            requests("loglikelihood_rolling", texts), disable_tqdm=True
        )
        found[f"generated {size}"] = lm.generate_until(
            requests("generate_until", PROMPTS), disable_tqdm=True
        )
    found["one request"] = lm.loglikelihood(pairs[:1], disable_tqdm=True)
    source = open_examples(run.config, data)
    examples = [source[i] for i in range(11)]
    losses = iter_row_losses(run, examples, batch_size=3)
    found["losses"] = sorted([row.example_id, row.loss] for rows in losses for row in rows)
    measured = measure_rows(run, examples, ("base", "alone", "masked", "all"), batch_size=3)
    rows = sorted((row for rows in measured for row in rows), key=lambda row: row["example_id"])
    found["measures"] = rows
    return found
