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
    E_NTD: Tensor, keys_NT: Tensor, mask_NT: Tensor, config: EmbeddingNoiseConfig, salt: int
) -> Tensor:
    """Return `E + alpha N M` in E's dtype.

    With `scale: neftune`, alpha is divided by sqrt(length D); the length is the number of
    real tokens of the row, never the padded one.
    """
    mask_NT1 = mask_NT.to(torch.float32).unsqueeze(-1)
    ratio_NT1 = config.alpha * mask_NT1
    if config.scale == "neftune":
        length_N11 = mask_NT1.sum(1, keepdim=True).clamp(min=1)
        ratio_NT1 = ratio_NT1 * (length_N11 * E_NTD.shape[-1]).rsqrt()
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
        stream = self.context.noise_stream
        keys_NT, mask_NT = batch.token_keys.get(stream), batch.noise_mask
        shape = E_NTD.shape[:-1]
        if keys_NT is None or keys_NT.shape != shape or mask_NT is None or mask_NT.shape != shape:
            raise LopeError(
                "Embedding noise needs a key and a mask for each token: "
                f"token_keys['{stream}'] and noise_mask of shape {tuple(shape)}; describe the "
                "batch (context.begin_batch) before each training forward, or call model.eval()."
            )
        return noisy_embeddings(E_NTD, keys_NT, mask_NT, config, self.salt)
