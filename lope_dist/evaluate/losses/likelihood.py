"""How likely a run finds the responses of examples: the loss of each row.

Rows go through the model sorted by length, so that batches hold little padding; what a row gets
depends on neither its batch nor its neighbours.

Shapes: N rows, T tokens, P target tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lope_dist.core.errors import LopeError
from lope_dist.corpus.feed.batches import MicroBatch, build_batch, sent
from lope_dist.corpus.rows.turns import Example
from lope_dist.corpus.tokens.encode import Tokenized, encode
from lope_dist.corpus.tokens.prompts import Form
from lope_dist.evaluate.loaded.load import LoadedRun
from lope_dist.evaluate.loaded.parallel import answer_in_rounds
from lope_dist.evaluate.loaded.sizing import TOKENS_AT_ONCE
from lope_dist.model.families import decoder_start_of
from lope_dist.model.loss_head import loss_head
from lope_dist.train.objective import targets_of, token_losses


@dataclass(frozen=True)
class RowLoss:
    """The loss of one row's response."""

    example_id: int
    loss: float
    """Nats, summed over the response's tokens."""
    num_tokens: int
    """0 where the response lies wholly behind `data.max_length`."""


def row_losses(
    run: LoadedRun, examples: Sequence[Example], *, batch_size: int = 16
) -> list[RowLoss]:
    """Return the loss of each example's response, under `run.context` as it is set.

    Args:
        run: The model, its template and its longest row.
        examples: Each with an id of its own; noise and packing play no part.
        batch_size: Rows of a forward pass at most; long rows come fewer at a time.
    """
    batches = iter_row_losses(run, examples, batch_size=batch_size)
    by_id = {row.example_id: row for rows in batches for row in rows}
    return [by_id[example.id] for example in examples]


def iter_row_losses(
    run: LoadedRun, examples: Sequence[Example], *, batch_size: int
) -> Iterator[list[RowLoss]]:
    """Yield what `row_losses` returns, a batch of each rank at a time, the longest rows first.

    Collective: yes, where ranks have loaded the run together; all take all rows.

    Raises:
        LopeError: a loss that is not finite.
    """
    groups = length_groups(encode(examples, form_of_run(run)), batch_size)
    for answers in answer_in_rounds(run, groups, lambda rows: _row_losses(run, rows)):
        yield [RowLoss(*row) for batch in answers for row in batch]


def _row_losses(run: LoadedRun, rows: Sequence[Tokenized]) -> list[tuple[int, float, int]]:
    batch = batch_of(run, rows)
    losses = losses_of(run, batch, batch.labels)
    sums_N = finite_sums(losses, batch.example_ids)
    counts_N = losses.rows_P.bincount(minlength=len(batch.example_ids))
    return list(zip(batch.example_ids, sums_N.tolist(), counts_N.tolist(), strict=True))


class TokenLosses(NamedTuple):
    """The loss of each target token of a batch, on the host, row by row in order."""

    losses_P: Tensor
    """float64, nats."""
    rows_P: Tensor
    """int64, the batch's row that each token is in."""


def losses_of(run: LoadedRun, batch: MicroBatch, labels_NT: Tensor) -> TokenLosses:
    """Return the loss of the tokens that ``labels_NT`` names, as the context is set."""
    targets = targets_of(labels_NT, shift=not run.model.config.is_encoder_decoder)
    device = run.model.device
    inputs = {name: sent(tensor, device) for name, tensor in batch.inputs.items()}
    losses_P = token_losses(
        lambda: run.model(**inputs, use_cache=False), loss_head(run.model), targets, device
    )
    return TokenLosses(losses_P.double().cpu(), targets.positions_P // labels_NT.shape[1])


def finite_sums(losses: TokenLosses, example_ids: Sequence[int]) -> Tensor:
    """Return the loss of each row of a batch.

    Shapes: float64 (N,).

    Raises:
        LopeError: a loss that is not finite; tells the example.
    """
    sums_N = torch.zeros(len(example_ids), dtype=torch.float64)
    sums_N.index_add_(0, losses.rows_P, losses.losses_P)
    if not sums_N.isfinite().all():
        broken = example_ids[int((~sums_N.isfinite()).nonzero()[0, 0])]
        raise LopeError(
            f"The loss of example {broken} is not finite: base weights or adapter hold NaN or "
            "infinite values; train the run again with a smaller learning rate."
        )
    return sums_N


def form_of_run(run: LoadedRun) -> Form:
    """Return the form in which a run's examples become tokens."""
    is_encoder_decoder = run.model.config.is_encoder_decoder
    return Form.of(run.config.data, run.tokenizer, is_encoder_decoder=is_encoder_decoder)


def length_groups(rows: Sequence[Tokenized], batch_size: int) -> list[list[Tokenized]]:
    """Return the rows of each batch, the longest ones first."""
    tokenized = sorted(rows, key=_length, reverse=True)
    groups, start = [], 0
    while start < len(tokenized):
        size = max(1, min(batch_size, TOKENS_AT_ONCE // _length(tokenized[start])))
        groups.append(tokenized[start : start + size])
        start += size
    return groups


def _length(example: Tokenized) -> int:
    return max(len(example.input_ids), len(example.labels))


def batch_of(run: LoadedRun, rows: Sequence[Tokenized]) -> MicroBatch:
    """Return rows as an unpacked batch without noise."""
    pad_id = run.tokenizer.pad_token_id
    assert isinstance(pad_id, int), "load_tokenizer sets it"
    return build_batch(
        [[row] for row in rows],
        is_packed=False,
        pad_id=pad_id,
        decoder_start_token_id=decoder_start_of(run.model.config),
        seed=run.config.seed,
        epoch=0,
    )
