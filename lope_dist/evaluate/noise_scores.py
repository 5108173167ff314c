"""How noisy an example looks to a run: what each row's passes measure, and scores made of them.

The poisoning expert has learnt noise. So a row that it explains, whose likelihood grows once it is
unmasked or to which the router gives it much weight, is likely to be noisy.

Paper: section 3.3 masks the poisoning expert; to rank data by it is this project's own use.
Shapes: N rows, T tokens, E experts, P target tokens of all rows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lope_dist.adapters.lope import LopeLinear, lope_layers
from lope_dist.corpus.batches import MicroBatch
from lope_dist.corpus.tokens import IGNORED, Tokenized
from lope_dist.corpus.turns import Example
from lope_dist.evaluate.likelihood import (
    build_batch,
    finite_sums,
    length_groups,
    losses_of,
)
from lope_dist.evaluate.load import LoadedRun
from lope_dist.evaluate.parallel import answer_in_rounds
from lope_dist.evaluate.rows import Row, rows_for

PASSES = {"base": "none", "masked": "masked", "all": "all"}
"""Name in a measurement -> word of `rows_for`."""
Measures = dict[str, Any]
"""Of one row: `example_id`; `num_tokens` of the response; `num_text_tokens` of the whole text; sums
of losses in nats over both; means over the tokens that are the worst tenth of the text."""

_TOP = 0.1  # share of a row's tokens


def _per_token(numerator: Callable[[Measures], float], tokens: str) -> Callable[[Measures], float]:
    return lambda row: numerator(row) / row[tokens]


def _gain(row: Measures) -> float:
    return row["masked_loss"] - row["all_loss"]


SCORES: dict[str, Callable[[Measures], float]] = {
    "gain": _per_token(_gain, "num_tokens"),
    "gain_share": lambda row: _gain(row) / row["masked_loss"],
    "gain_text": _per_token(
        lambda row: row["masked_text_loss"] - row["all_text_loss"], "num_text_tokens"
    ),
    "gain_top": lambda row: row["gain_top"],
    "poison_weight": lambda row: row["poison_weight"],
    "poison_weight_top": lambda row: row["poison_weight_top"],
    "base_loss": _per_token(lambda row: row["base_loss"], "num_tokens"),
    "base_text_loss": _per_token(lambda row: row["base_text_loss"], "num_text_tokens"),
    "base_loss_top": lambda row: row["base_top"],
    "base_loss_max": lambda row: row["base_max"],
    "masked_loss": _per_token(lambda row: row["masked_loss"], "num_tokens"),
    "masked_text_loss": _per_token(lambda row: row["masked_text_loss"], "num_text_tokens"),
    "masked_loss_top": lambda row: row["masked_top"],
    "all_loss": _per_token(lambda row: row["all_loss"], "num_tokens"),
    "masked_minus_base": _per_token(
        lambda row: row["masked_loss"] - row["base_loss"], "num_tokens"
    ),
}
"""Name -> score of a row; the larger, the noisier it looks. docs/scoring.md says what each is."""


def scores_of(row: Measures) -> dict[str, float | None]:
    """Return all scores of a row; None where it has no token that the score is of."""
    found: dict[str, float | None] = {}
    for name, score in SCORES.items():
        try:
            found[name] = score(row)
        except ZeroDivisionError:  # no token, so no mean
            found[name] = None
    return found


def measure_rows(
    run: LoadedRun, examples: Sequence[Example], *, batch_size: int
) -> Iterator[list[Measures]]:
    """Yield what the scores are made of, a batch of each rank at a time, the longest rows first.

    Three passes a batch: base model, masked, all experts.

    Collective: yes, where ranks have loaded the run together; all take all rows.

    Raises:
        LopeError: the run has no poisoning expert, or a loss is not finite.
    """
    passes = {name: rows_for([word], run.config.adapter)[0] for name, word in PASSES.items()}
    groups = length_groups(run, examples, batch_size)
    for answers in answer_in_rounds(run, groups, lambda rows: _measure(run, rows, passes)):
        yield [row for batch in answers for row in batch]


def _measure(run: LoadedRun, rows: Sequence[Tokenized], passes: dict[str, Row]) -> list[Measures]:
    batch = build_batch(run, rows)
    text_NT = _text_labels(run, batch)
    losses: dict[str, Tensor] = {}
    for name, row in passes.items():
        row.apply(run.context)
        with _poison_weights(run, batch) as weights:
            found = losses_of(run, batch, text_NT)
        finite_sums(found, batch.example_ids)  # before a NaN is ranked, or lost among others
        losses[name], rows_P = found
    is_response_P = (batch.labels != IGNORED)[text_NT != IGNORED]
    return [
        _measures(
            example_id,
            {name: losses_P[rows_P == n] for name, losses_P in losses.items()},
            is_response_P[rows_P == n],
            weights[n],
        )
        for n, example_id in enumerate(batch.example_ids)
    ]


def _text_labels(run: LoadedRun, batch: MicroBatch) -> Tensor:
    """Return labels of all that the model can predict: prompt and response, but the first token."""
    if run.model.config.is_encoder_decoder:
        return batch.labels
    ids_NT = batch.inputs["input_ids"]
    text_NT = ids_NT.masked_fill(batch.noise_mask == 0, IGNORED)
    text_NT[:, 0] = IGNORED
    return text_NT


def _measures(
    example_id: int, losses: dict[str, Tensor], is_response: Tensor, weights: Tensor
) -> Measures:
    row: Measures = {
        "example_id": example_id,
        "num_tokens": int(is_response.sum()),
        "num_text_tokens": len(is_response),
        "poison_weight": float(weights.mean()),
        "poison_weight_top": _top(weights),
        "gain_top": _top(losses["masked"] - losses["all"]),
    }
    for name, values in losses.items():
        row[f"{name}_loss"] = float(values[is_response].sum())
        row[f"{name}_text_loss"] = float(values.sum())
        row[f"{name}_top"] = _top(values)
        row[f"{name}_max"] = float(values.max()) if len(values) else None
    return row


def _top(values: Tensor) -> float | None:
    """Return the mean of the largest tenth, of one value at least."""
    if not len(values):
        return None
    return float(values.topk(math.ceil(_TOP * len(values))).values.mean())


@contextmanager
def _poison_weights(run: LoadedRun, batch: MicroBatch) -> Iterator[list[Tensor]]:
    """Context in which a forward pass collects the poisoning experts' weight at each token.

    The list is filled when the context ends: one tensor a row, the mean over the adapted layers
    at each real token, of encoder and decoder one after the other.
    """
    mask = {run.context.noise_stream: batch.noise_mask}
    if "decoder_attention_mask" in batch.inputs:
        mask["decoder"] = batch.inputs["decoder_attention_mask"]
    seen: dict[str, list[Tensor]] = defaultdict(list)

    def listen(layer: LopeLinear) -> Any:
        def add(bank: Any, arguments: tuple[Any, ...]) -> None:
            w_NTE = arguments[2]
            seen[layer.lope.stream].append(w_NTE[..., len(bank.normal_names) :].sum(-1).cpu())

        return layer.lope.B.register_forward_pre_hook(add)

    handles = [listen(layer) for layer in lope_layers(run.model).values()]
    weights: list[Tensor] = []
    try:
        yield weights
    finally:
        for handle in handles:
            handle.remove()
    for n in range(len(batch.example_ids) if seen else 0):
        parts = [
            torch.stack([w_NT[n] for w_NT in layers]).double().mean(0)[mask[stream][n] == 1]
            for stream, layers in sorted(seen.items())
        ]
        weights.append(torch.cat(parts))
