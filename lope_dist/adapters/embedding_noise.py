"""Continuous noise on the input embeddings: `E' = E + alpha * N * M`, N ~ U(-1, 1).

On only while the stage has `embedding_noise` and the model trains, and zero on padding
(M). The values come from the tokens' own keys, so they are the same for any batch split.

Encoder-decoder models often share one embedding between encoder and decoder. There the noise
is added only while the encoder runs: it is the encoder's input that the paper corrupts.

Paper: section 3.2 (arXiv 2505.23868).
Shapes: N batch, T tokens, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lope_dist.adapters.context import AdapterContext
from lope_dist.adapters.counter_noise import salt_of, uniform
from lope_dist.config.noise import EmbeddingNoiseConfig
from lope_dist.core.errors import LopeError

_CHUNK = 1 << 24  # numbers drawn at once


def noisy_embeddings(
    E_NTD: Tensor,
    keys_NT: Tensor,
    mask_NT: Tensor,
    config: EmbeddingNoiseConfig,
    salt: int,
    lengths_NT: Tensor | None = None,
) -> Tensor:
    """Return `E + alpha N M` in E's dtype.

    With `scale: neftune`, alpha is divided by sqrt(length D); the length is the number of
    tokens of a token's example, whatever shares its row. Only then are ``lengths_NT`` read.
    """
    ratio_NT1 = config.alpha * mask_NT.to(torch.float32).unsqueeze(-1)
    if config.scale == "neftune":
        assert lengths_NT is not None
        length_NT1 = lengths_NT.to(torch.float32).unsqueeze(-1).clamp(min=1)
        ratio_NT1 = ratio_NT1 * (length_NT1 * E_NTD.shape[-1]).rsqrt()
    noise_NTD = torch.empty_like(E_NTD, requires_grad=False)
    tokens = max(1, _CHUNK // (E_NTD.shape[0] * E_NTD.shape[-1]))
    for at in range(0, E_NTD.shape[1], tokens):  # the random bits take several times E's bytes
        part = slice(at, at + tokens)
        values = uniform(keys_NT[:, part], salt, E_NTD.shape[-1])
        noise_NTD[:, part] = values.mul_(ratio_NT1[:, part])
    return noise_NTD.add_(E_NTD)


def install(model: nn.Module, context: AdapterContext, seed: int) -> None:
    """Hook the model's input embedding. ``model`` is a transformers model."""
    EmbeddingNoiseHook(context, salt_of(seed, "embedding_noise")).install(model)


class EmbeddingNoiseHook:
    """Forward hook of the embedding; knows whether the noised stack is running."""

    def __init__(self, context: AdapterContext, salt: int) -> None:
        self.context = context
        self.salt = salt
        self.is_running = True

    def install(self, model: Any) -> None:
        """Attach to the input embedding, for encoder-decoder models to the encoder's."""
        stack = model
        if self.context.noise_stream == "encoder":
            self.is_running = False
            stack = model.get_encoder()
            stack.register_forward_pre_hook(self._enter)
            stack.register_forward_hook(self._leave, always_call=True)
        stack.get_input_embeddings().register_forward_hook(self._add_noise)

    def _enter(self, stack: nn.Module, args: Any) -> None:
        self.is_running = True

    def _leave(self, stack: nn.Module, args: Any, output: Any) -> None:
        self.is_running = False

    def _add_noise(self, embedding: nn.Module, args: Any, E_NTD: Tensor) -> Tensor:
        config, batch = self.context.stage.embedding_noise, self.context.batch
        if config is None or config.alpha == 0 or not embedding.training or not self.is_running:
            return E_NTD
        stream, shape = self.context.noise_stream, E_NTD.shape[:-1]
        keys_NT, mask_NT, lengths_NT = (
            given if given is not None and given.shape == shape else None
            for given in (batch.token_keys.get(stream), batch.noise_mask, batch.example_lengths)
        )
        needs_lengths = config.scale == "neftune"
        if keys_NT is None or mask_NT is None or (needs_lengths and lengths_NT is None):
            raise LopeError(
                "Embedding noise needs a key and a mask for each token, and the length of its "
                f"example for scale = 'neftune': token_keys['{stream}'], noise_mask and "
                f"example_lengths of shape {tuple(shape)}; describe the batch "
                "(context.begin_batch) before each training forward, or call model.eval()."
            )
        return noisy_embeddings(E_NTD, keys_NT, mask_NT, config, self.salt, lengths_NT)
