"""What the adapter layers and the embedding noise must know of one micro-batch.

Shapes: N rows, T tokens, P = N T.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lope_dist.core.errors import LopeError


@dataclass(frozen=True, eq=False)
class BatchDescription:
    """One pass of a micro-batch; nothing is known of what is left out.

    Masks are of the tokens of the context's `noise_stream`.
    """

    token_keys: Mapping[str, Tensor] = field(default_factory=dict)
    """Stream (`decoder`, `encoder`) -> int32 (N, T) keys of `core.seeds.token_keys`."""
    noise_mask: Tensor | None = None
    """(N, T), 1 on real tokens and 0 on padding."""
    corrupted_mask: Tensor | None = None
    """bool (N, T): the tokens of words that noise changed."""
    corrupted_targets: Tensor | None = None
    """bool (N, T): the tokens that predict a marked one. While the model trains, the poisoning
    experts learn from these alone, and the normal ones from the others."""
    example_lengths: Tensor | None = None
    """(N, T): how many tokens the example has that a token is of."""
    leaves_out_poison: bool = False
    """While the model trains, the poisoning experts weigh nothing in this pass."""
    _usage_marks: dict[tuple[bool, int, torch.device], Tensor] = field(
        default_factory=dict, init=False, repr=False
    )

    def as_rows(self, stream: str, x: Tensor) -> Tensor:
        """Return what a layer is called with as rows of tokens, (N, T, ...).

        Some models hand a layer all tokens of a batch in one row, or rows as of one head.
        """
        keys_NT = self.token_keys.get(stream)
        if keys_NT is None or keys_NT.shape == x.shape[:-1]:
            return x  # itself, no view: the layer may write into its own output
        if keys_NT.numel() == x.shape[:-1].numel():
            return x.reshape(*keys_NT.shape, x.shape[-1])
        return x

    def usage_marks(self, weights_PE: Tensor, *, has_masks: bool) -> Tensor:
        """Return with what each token counts for the router's usage.

        Made once for all layers of a micro-batch.

        Args:
            weights_PE: What is to be counted.
            has_masks: Whether they are of the stream that the masks are of.

        Shapes: float32 (2, P), at real tokens 1, and at corrupted ones; without masks all tokens
        are real.
        """
        key = has_masks, weights_PE.shape[0], weights_PE.device
        if key not in self._usage_marks:
            marks_2P = torch.zeros(2, key[1], device=weights_PE.device)
            real, corrupted = (self.noise_mask, self.corrupted_mask) if has_masks else (None, None)
            marks_2P[0] = 1.0 if real is None else real.flatten()
            if corrupted is not None:
                marks_2P[1] = corrupted.flatten()
            self._usage_marks[key] = marks_2P
        return self._usage_marks[key]

    def dropout_keys(self, stream: str, shape: Sequence[int]) -> Tensor:
        """Return the keys of a stream's tokens, from which a layer that reads it draws dropout.

        Shapes: int32 ``shape``, (N, T).

        Raises:
            LopeError: there are none, or of other tokens.
        """
        keys_NT = self.token_keys.get(stream)
        if keys_NT is None or keys_NT.shape != torch.Size(shape):
            given = "none" if keys_NT is None else f"keys of shape {tuple(keys_NT.shape)}"
            raise LopeError(
                f"Dropout of an adapter in the {stream} needs one key for each token: "
                f"token_keys['{stream}'] of shape {tuple(shape)}, and there are {given}; describe "
                "the batch (context.begin_batch) before each training forward, call model.eval(), "
                "or set adapter.dropout=0."
            )
        return keys_NT
