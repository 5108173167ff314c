"""How noisy an example looks: what passes of a model measure of each row, and scores made of them.

A wrong or corrupted row is one that the model finds hard. Which of its losses says so best differs
with the noise: that of the hardest tenth of the text for corrupted words, that of the response, or
what the instruction adds to it, for answers that are wrong as a whole.

Shapes: N rows, T tokens, P target tokens of all rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lope_dist.core.console import tell
from lope_dist.core.errors import LopeError
from lope_dist.corpus.feed.batches import MicroBatch
from lope_dist.corpus.rows.turns import Example
from lope_dist.corpus.tokens.encode import IGNORED, Tokenized, encode
from lope_dist.corpus.tokens.marking import all_marked
from lope_dist.evaluate.loaded.load import LoadedRun
from lope_dist.evaluate.loaded.parallel import answer_in_rounds
from lope_dist.evaluate.loaded.rows import rows_for
from lope_dist.evaluate.losses.likelihood import (
    batch_of,
    finite_sums,
    form_of_run,
    length_groups,
    losses_of,
)

PASSES = {"base": "none", "masked": "masked", "all": "all", "alone": "none"}
"""Name in a measurement -> word of `rows_for`. `alone`: the response without the instruction."""
Measures = dict[str, Any]
"""Of one row: `example_id`; `num_tokens` of the response; `num_text_tokens` of all that the row
says, without what the template adds; sums of losses in nats over both; and of the tokens that are
the hardest tenth of the latter their mean (`_top`) and their places among all tokens that are
predicted (`_hardest`)."""
MEASURES_FORM = 2
"""Of the above; raise it when the same row has other measures."""

_TOP = 0.1  # share of a row's tokens


def _per_token(numerator: Callable[[Measures], float], tokens: str) -> Callable[[Measures], float]:
    return lambda row: numerator(row) / row[tokens]


SCORES: dict[str, Callable[[Measures], float]] = {
    "masked_loss_top": lambda row: row["masked_top"],
    "base_loss_top": lambda row: row["base_top"],
    "base_loss_max": lambda row: row["base_max"],
    "base_loss": _per_token(lambda row: row["base_loss"], "num_tokens"),
    "base_text_loss": _per_token(lambda row: row["base_text_loss"], "num_text_tokens"),
    "ifd": _per_token(lambda row: row["base_loss"] - row["alone_loss"], "num_tokens"),
    "masked_loss": _per_token(lambda row: row["masked_loss"], "num_tokens"),
    "masked_text_loss": _per_token(lambda row: row["masked_text_loss"], "num_text_tokens"),
    "all_loss": _per_token(lambda row: row["all_loss"], "num_tokens"),
    "masked_minus_base": _per_token(
        lambda row: row["masked_loss"] - row["base_loss"], "num_tokens"
    ),
    "brevity": lambda row: -row["num_tokens"],
    "copies": lambda row: row["copies"],
}
"""Name -> score of a row; the larger, the noisier it looks. docs/scoring.md says what each is."""


def scores_of(row: Measures) -> dict[str, float | None]:
    """Return the scores of a row that it was measured for; None where it has no token for it."""
    scores: dict[str, float | None] = {}
    for name, score in SCORES.items():
        try:
            scores[name] = score(row)
        except ZeroDivisionError:  # no token, so no mean
            scores[name] = None
        except KeyError:  # of a pass that was not made
            continue
    return scores


def is_measured(row: Measures, passes: Sequence[str]) -> bool:
    """Return whether a row that is on file has all of these passes."""
    return all(f"{name}_loss" in row for name in passes)


def measure_rows(
    run: LoadedRun, examples: Sequence[Example], passes: Sequence[str], *, batch_size: int
) -> Iterator[list[Measures]]:
    """Yield what the scores are made of, a batch of each rank at a time, the longest rows first.

    Collective: yes, where ranks have loaded the run together; all take all rows.

    Raises:
        LopeError: the run lacks the experts of a pass, or a loss is not finite.
    """
    groups = length_groups(_tokenized(run, examples), batch_size)
    for answers in answer_in_rounds(run, groups, lambda rows: _measure(run, rows, passes)):
        yield [row for batch in answers for row in batch]


def _measure(run: LoadedRun, rows: Sequence[Tokenized], passes: Sequence[str]) -> list[Measures]:
    batch = batch_of(run, rows)
    text_NT = _text_labels(run, batch)
    is_response_P = (batch.labels != IGNORED)[text_NT != IGNORED]
    is_said_P = torch.ones_like(is_response_P)
    if batch.corrupted_mask is not None and not run.model.config.is_encoder_decoder:
        is_said_P = batch.corrupted_mask[text_NT != IGNORED]
    measured: list[Measures] = [{"example_id": example_id} for example_id in batch.example_ids]
    for name in passes:
        pass_batch, labels_NT = batch, text_NT
        if name == "alone":
            pass_batch = batch_of(run, [_alone(run, row) for row in rows])
            labels_NT = pass_batch.labels
        with run.context.answering(rows_for([PASSES[name]], run.config.adapter)[0]):
            losses = losses_of(run, pass_batch, labels_NT)
        sums_N = finite_sums(losses, pass_batch.example_ids)  # before a NaN is ranked
        for n, row in enumerate(measured):
            if name == "alone":
                row["alone_loss"] = float(sums_N[n])
                continue
            in_row_P = losses.rows_P == n
            parts = (losses.losses_P[in_row_P], is_response_P[in_row_P], is_said_P[in_row_P])
            row |= _measures(name, *parts)
    return measured


def _tokenized(run: LoadedRun, examples: Sequence[Example]) -> list[Tokenized]:
    """Return the tokens of examples, marked where they are of the row and not of the template."""
    form = form_of_run(run)
    try:
        return encode(examples, form, [all_marked(example) for example in examples])
    except LopeError as error:
        tell(f"The template's own tokens count as text, for they cannot be told apart: {error}")
        return encode(examples, form)


def _text_labels(run: LoadedRun, batch: MicroBatch) -> Tensor:
    """Return labels of all that the model can predict: prompt and response, but the first token."""
    if run.model.config.is_encoder_decoder:
        return batch.labels
    ids_NT = batch.inputs["input_ids"]
    text_NT = ids_NT.masked_fill(batch.noise_mask == 0, IGNORED)
    text_NT[:, 0] = IGNORED
    return text_NT


def _alone(run: LoadedRun, row: Tokenized) -> Tokenized:
    """Return what is learnt of a row without what comes before it."""
    tokenizer = run.tokenizer
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    assert isinstance(start, int)
    targets = [label for label in row.labels if label != IGNORED]
    if run.model.config.is_encoder_decoder:
        return Tokenized(row.example_id, [start], targets or [start], was_cut=False)
    return Tokenized(row.example_id, [start, *targets], [IGNORED, *targets], was_cut=False)


def _measures(name: str, losses: Tensor, is_response: Tensor, is_said: Tensor) -> Measures:
    if not is_said.any():  # a row that came as tokens has no template
        is_said = torch.ones_like(is_said)
    text_losses = losses[is_said]
    hardest = text_losses.topk(math.ceil(_TOP * len(text_losses)))
    return {
        "num_tokens": int(is_response.sum()),
        "num_text_tokens": len(text_losses),
        f"{name}_loss": float(losses[is_response].sum()),
        f"{name}_text_loss": float(text_losses.sum()),
        f"{name}_top": float(hardest.values.mean()) if len(text_losses) else None,
        f"{name}_max": float(text_losses.max()) if len(text_losses) else None,
        f"{name}_hardest": is_said.nonzero().flatten()[hardest.indices].tolist(),
    }
