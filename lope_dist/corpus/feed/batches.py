"""Tokenized examples -> the tensors of one forward pass.

Shape suffixes: N rows, T tokens.

A packed row holds several examples; the padding that fills it up counts as one more::

    input_ids     a a a a b b b b b c c . .
    position_ids  0 1 2 3 0 1 2 3 4 0 1 0 1
    noise_mask    1 1 1 1 1 1 1 1 1 1 1 0 0

Where `position_ids` restart, transformers cuts the attention: a token sees its own example
alone. It does so only if the model is called without `attention_mask` and without a cache
(`use_cache=False`), and with attention `sdpa` or `eager`, or with `flash_attention_2` and
one row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lope_dist.adapters.batch import BatchDescription
from lope_dist.core.seeds import token_keys
from lope_dist.corpus.tokens.encode import IGNORED, Tokenized

TOKEN_NOISE = "token-noise"
"""Purpose of the per-token keys of the stream that a model reads its input from."""
_DECODER_TOKEN_NOISE = "token-noise-decoder"  # an encoder-decoder's second stream


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass needs, and what it is made of."""

    inputs: dict[str, Tensor]
    """What the model is called with: `input_ids` and `attention_mask`, or `position_ids` when
    packed; for encoder-decoder models also `decoder_input_ids` and `decoder_attention_mask`."""
    labels: Tensor
    """int64 (N, T), -100 off target. Not shifted: a decoder-only model's output at t predicts
    the label at t + 1, an encoder-decoder's decoder output at t the label at t."""
    token_keys: dict[str, Tensor]
    """`decoder` (and `encoder`): int32 (N, T), a key for each token that depends on seed,
    epoch, example and place in the example, on nothing else; 0 at padding."""
    noise_mask: Tensor
    """int64 (N, T) over `input_ids`: 1 at real tokens, 0 at padding."""
    example_lengths: Tensor
    """int64 (N, T) over `input_ids`: the tokens of a token's example, 0 at padding."""
    corrupted_mask: Tensor | None
    """bool (N, T) over `input_ids`: the tokens of words that noise changed; None where nobody
    asked."""
    weights: Tensor | None
    """float32 (N, T) over `labels`: what the loss of a token's example is multiplied by; None
    where that is 1 everywhere."""
    example_ids: tuple[int, ...]
    """The examples, row by row."""
    cut_ids: tuple[int, ...]
    """Those of them that were longer than a row."""
    num_target_tokens: int
    """Labels that a loss is taken of."""
    num_tokens: int
    """Real tokens."""

    def description(self) -> BatchDescription:
        """Return what the adapters need to know of the batch."""
        return BatchDescription(
            self.token_keys,
            self.noise_mask,
            self.corrupted_mask,
            example_lengths=self.example_lengths,
        )

    def to(self, device: torch.device | str) -> MicroBatch:
        """Return the batch with its tensors on ``device``."""
        mask, weights = self.corrupted_mask, self.weights
        return replace(
            self,
            inputs={name: sent(t, device) for name, t in self.inputs.items()},
            labels=sent(self.labels, device),
            token_keys={name: sent(t, device) for name, t in self.token_keys.items()},
            noise_mask=sent(self.noise_mask, device),
            example_lengths=sent(self.example_lengths, device),
            corrupted_mask=None if mask is None else sent(mask, device),
            weights=None if weights is None else sent(weights, device),
        )


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor of the host on ``device``, without waiting for what a GPU has queued.

    A copy from memory that is not pinned waits until the GPU has come to it.
    """
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def even_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return few rows of indices that are about equally long, so that a batch of them pads little.

    There are as many rows as first-fit decreasing needs. Each example, the longest first, then goes
    to the shortest row. If one does not fit there, the rows are those of first-fit decreasing.
    """
    assert max(lengths, default=0) <= capacity, (max(lengths), capacity)
    longest_first = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    filled: list[list[int]] = []
    room: list[int] = []
    for index in longest_first:
        row = next((r for r, free in enumerate(room) if free >= lengths[index]), len(room))
        if row == len(room):
            filled.append([])
            room.append(capacity)
        filled[row].append(index)
        room[row] -= lengths[index]
    even: list[list[int]] = [[] for _ in filled]
    sizes = [0] * len(filled)
    for index in longest_first:
        row = sizes.index(min(sizes))
        even[row].append(index)
        sizes[row] += lengths[index]
    rows = even if max(sizes, default=0) <= capacity else filled
    return sorted(sorted(row) for row in rows)


def build_batch(
    rows: Sequence[Sequence[Tokenized]],
    *,
    is_packed: bool,
    pad_id: int,
    seed: int,
    epoch: int,
    decoder_start_token_id: int | None = None,
    loss_on_corrupted: bool = False,
) -> MicroBatch:
    """Return the batch of some rows; without packing each row is one example.

    Args:
        rows: The examples of each row.
        is_packed: A row may have several; only of a decoder-only model.
        pad_id: Token to pad with.
        seed: Of the run.
        epoch: Of the stage.
        decoder_start_token_id: Of an encoder-decoder model; None: a decoder-only one.
        loss_on_corrupted: What noise did not change is no target.
    """
    assert is_packed or all(len(row) == 1 for row in rows)
    targets = [[_targets(example, loss_on_corrupted) for example in row] for row in rows]
    input_ids = [[token for example in row for token in example.input_ids] for row in rows]
    mask_NT = _mask(input_ids)
    num_tokens = int(mask_NT.sum())
    keys = _keys(rows, seed, epoch, TOKEN_NOISE, lambda e: len(e.input_ids))
    inputs = {"input_ids": _pad(input_ids, pad_id)}
    if is_packed:
        inputs |= _packed(inputs["input_ids"], mask_NT, rows)
    else:
        inputs["attention_mask"] = mask_NT
    if decoder_start_token_id is None:
        # The first token of an example has nothing before it that could predict it.
        labels = [[label for ids in row for label in (IGNORED, *ids[1:])] for row in targets]
        token_keys = {"decoder": keys}
    else:
        labels = [ids for row in targets for ids in row]
        written = [row[0].labels for row in rows]
        starts = [[decoder_start_token_id, *ids[:-1]] for ids in written]
        decoder_mask_NT = _mask(written)
        inputs |= {
            "decoder_input_ids": _pad(starts, pad_id),
            "decoder_attention_mask": decoder_mask_NT,
        }
        decoder_keys = _keys(rows, seed, epoch, _DECODER_TOKEN_NOISE, lambda e: len(e.labels))
        token_keys = {"encoder": keys, "decoder": decoder_keys}
        num_tokens += int(decoder_mask_NT.sum())
    labels_NT = _pad(labels, IGNORED)
    examples = [example for row in rows for example in row]
    return MicroBatch(
        inputs=inputs,
        labels=labels_NT,
        token_keys=token_keys,
        noise_mask=mask_NT,
        example_lengths=_example_lengths(rows),
        corrupted_mask=_corrupted(rows),
        weights=_weights(rows),
        example_ids=tuple(example.example_id for example in examples),
        cut_ids=tuple(example.example_id for example in examples if example.was_cut),
        num_target_tokens=int((labels_NT != IGNORED).sum()),
        num_tokens=num_tokens,
    )


def _packed(
    ids_NT: Tensor, mask_NT: Tensor, rows: Sequence[Sequence[Tokenized]]
) -> dict[str, Tensor]:
    """Return the inputs of packed rows, with positions that restart at each example.

    Padding sees padding alone here, and the embedding of a padding token may be zero, where a norm
    has no gradient. So it is the row's first token.
    """
    positions = [[position for ex in row for position in range(len(ex.input_ids))] for row in rows]
    columns_NT = torch.arange(ids_NT.shape[1]).expand_as(ids_NT)
    of_padding_NT = columns_NT - mask_NT.sum(1, keepdim=True)
    return {
        "input_ids": torch.where(mask_NT.bool(), ids_NT, ids_NT[:, :1]),
        "position_ids": torch.where(mask_NT.bool(), _pad(positions, 0), of_padding_NT),
    }


def without_content(batch: MicroBatch) -> MicroBatch:
    """Return a batch of the same form that teaches nothing: no target, no real token.

    Attention masks stay as they are: a row in which all is masked gives NaN.
    """
    return replace(
        batch,
        labels=torch.full_like(batch.labels, IGNORED),
        noise_mask=torch.zeros_like(batch.noise_mask),
        example_ids=(),
        cut_ids=(),
        num_target_tokens=0,
        num_tokens=0,
    )


def _targets(example: Tokenized, loss_on_corrupted: bool) -> list[int]:
    if not loss_on_corrupted:
        return example.labels
    assert example.corrupted is not None, "the loader sees to the marks"
    marked = zip(example.labels, example.corrupted[1], strict=True)
    return [label if is_corrupted else IGNORED for label, is_corrupted in marked]


def _corrupted(rows: Sequence[Sequence[Tokenized]]) -> Tensor | None:
    marks = [[example.corrupted for example in row] for row in rows]
    if any(of_example is None for row in marks for of_example in row):
        return None
    flat = [
        [is_in for of_example in row if of_example is not None for is_in in of_example[0]]
        for row in marks
    ]
    return _pad(flat, 0, torch.bool)


def _example_lengths(rows: Sequence[Sequence[Tokenized]]) -> Tensor:
    lengths = [[len(example.input_ids) for example in row] for row in rows]
    return _pad([[length for length in row for _ in range(length)] for row in lengths], 0)


def _weights(rows: Sequence[Sequence[Tokenized]]) -> Tensor | None:
    if all(example.weight == 1 for row in rows for example in row):
        return None
    flat = [[example.weight for example in row for _ in example.labels] for row in rows]
    return _pad(flat, 0, torch.float32)


def _keys(
    rows: Sequence[Sequence[Tokenized]],
    seed: int,
    epoch: int,
    purpose: str,
    length: Callable[[Tokenized], int],
) -> Tensor:
    keys = [
        [token_keys(seed, purpose, epoch, ex.example_id, length(ex)) for ex in row] for row in rows
    ]
    return _pad([np.concatenate(row) for row in keys], 0, torch.int32)


def _pad(rows: Sequence, fill: int, dtype: torch.dtype = torch.int64) -> Tensor:
    width = max(len(row) for row in rows)
    padded_NT = torch.full((len(rows), width), fill, dtype=dtype)
    for target_T, row in zip(padded_NT, rows, strict=True):
        target_T[: len(row)] = torch.as_tensor(row, dtype=dtype)
    return padded_NT


def _mask(rows: Sequence[Sequence[int]]) -> Tensor:
    return _pad([[1] * len(row) for row in rows], 0)
