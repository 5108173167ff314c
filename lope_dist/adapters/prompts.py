"""P-Tuning and prefix tuning: peft's encoders of virtual tokens, hooked before a model's decoder.

A hook puts the virtual tokens before the sequence as the decoder is called and takes their
hidden states away behind it, so logits, labels, losses and generation know nothing of them::

    p_tuning       [v v v] + embeddings -> layers -> hidden states without the first three
    prefix_tuning  keys and values of [v v v] in each layer's cache, the sequence as it is

Positions count the virtual tokens, and every real token sees them all.

Paper: arXiv 2103.10385, 2101.00190.
Shapes: N batch, T tokens, V virtual tokens, L layers, H heads of keys, D hidden size.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from peft import PrefixEncoder, PrefixTuningConfig, PromptEncoder, PromptEncoderConfig
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from lope_dist.adapters.base import AdapterModule
from lope_dist.adapters.context import AdapterContext
from lope_dist.adapters.inject import initialize_module
from lope_dist.config.baselines import PromptConfig, PTuningConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role
from lope_dist.core.seeds import derive_key


class VirtualTokens(nn.Module, AdapterModule):
    """The encoder and the hooks; `prompt` of its model."""

    wraps_a_layer = False

    def __init__(
        self,
        arch: PretrainedConfig,
        config: PromptConfig,
        context: AdapterContext,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.arch, self.config, self.context, self.seed = arch, config, context, seed
        self._num_prepended = 0
        self._lends_cache = False
        self._names: tuple[str, ...] = ()  # of the decoder's arguments
        self._cache_name = ""
        with torch.device(device):
            self.encoder: Any = build_encoder(config, arch)

    def roles(self) -> dict[str, Role]:
        """Return the role of each of the encoder's parameters."""
        return {name: Role.ADAPTER for name, _ in self.named_parameters()}

    def initial_values(self) -> dict[str, Tensor]:
        """Return the encoder's own initial values, drawn from the seed."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(derive_key(self.seed, "init:prompt") & 0x7FFF_FFFF_FFFF_FFFF)
            encoder = build_encoder(self.config, self.arch)
        return {f"encoder.{name}": p.detach() for name, p in encoder.named_parameters()}

    def forward(self, rows: int, device: torch.device) -> Tensor:
        """Return the encoder's output for so many rows, (N, V, ...) float32."""
        tokens_V = torch.arange(self.config.num_virtual_tokens, device=device)
        return self.encoder(tokens_V.expand(rows, -1))

    def install(self, decoder: nn.Module) -> None:
        """Hook the stack of layers with its embedding."""
        self._names = tuple(inspect.signature(decoder.forward).parameters)
        # transformers 5.24 renamed the argument.
        self._cache_name = "cache" if "cache" in self._names else "past_key_values"
        decoder.register_forward_pre_hook(self._enter, with_kwargs=True)
        decoder.register_forward_hook(self._leave)

    def _enter(self, decoder: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Change how the decoder is called."""
        self._num_prepended, self._lends_cache = 0, False
        if self.context.answer.experts == "none":
            return args, kwargs
        kwargs = dict(zip(self._names, args, strict=False)) | kwargs
        cache, ids, embeds = (
            kwargs.get(key) for key in (self._cache_name, "input_ids", "inputs_embeds")
        )
        given = ids if embeds is None else embeds
        assert given is not None
        rows = given.shape[0]
        is_begun = cache is not None and cache.get_seq_length() > 0
        prepends = not is_begun and isinstance(self.config, PTuningConfig)
        self._shift(kwargs, rows, prepends)
        if prepends:
            if embeds is None:
                embeds = decoder.get_input_embeddings()(ids)
            prompt_NVD = self(rows, embeds.device).to(embeds.dtype)
            kwargs |= {"input_ids": None, "inputs_embeds": torch.cat([prompt_NVD, embeds], dim=1)}
            self._num_prepended = self.config.num_virtual_tokens
        elif not is_begun:
            self._lends_cache = cache is None
            kwargs[self._cache_name] = self._filled(cache, given, decoder)
        return (), kwargs

    def _leave(self, decoder: Any, args: Any, output: Any) -> Any:
        """Leave the real tokens' hidden states, and no cache that nobody asked for."""
        if self._num_prepended:
            output.last_hidden_state = output.last_hidden_state[:, self._num_prepended :]
        if self._lends_cache:
            setattr(output, self._cache_name, None)
        return output

    def _shift(self, kwargs: dict[str, Any], rows: int, prepends: bool) -> None:
        """Make room for the virtual tokens in the mask and the positions, where they are given."""
        virtual = self.config.num_virtual_tokens
        mask_NT, positions_NT = kwargs.get("attention_mask"), kwargs.get("position_ids")
        if mask_NT is not None:
            is_plain = isinstance(mask_NT, Tensor) and mask_NT.dim() == 2
            assert is_plain, "its attention masks are made before its decoder is called"
            kwargs["attention_mask"] = torch.cat([mask_NT.new_ones(rows, virtual), mask_NT], dim=1)
        if positions_NT is not None:
            positions_NT = positions_NT + virtual
            if prepends:
                first_V = torch.arange(virtual, device=positions_NT.device)
                before_NV = first_V.expand(*positions_NT.shape[:-1], -1)  # some have several axes
                positions_NT = torch.cat([before_NV, positions_NT], dim=-1)
            kwargs["position_ids"] = positions_NT

    def _filled(self, cache: Any, given: Tensor, decoder: Any) -> Any:
        """Return the cache with each layer's keys and values of the virtual tokens."""
        if cache is None:
            cache = DynamicCache(config=self.arch)
        rows = given.shape[0]
        virtual, (layers, heads, width) = self.config.num_virtual_tokens, _sizes(self.arch)
        dtype = decoder.get_input_embeddings().weight.dtype
        prefix = self(rows, given.device).to(dtype).view(rows, virtual, 2 * layers, heads, width)
        prefix = prefix.permute(2, 0, 3, 1, 4)
        for layer in range(layers):
            cache.update(prefix[2 * layer], prefix[2 * layer + 1], layer)
        return cache


def attach_prompt(
    model: PreTrainedModel, config: PromptConfig, context: AdapterContext, *, seed: int
) -> None:
    """Put virtual tokens before the sequences of a frozen model.

    Raises:
        LopeError: a model whose structure tells that it cannot have them.
    """
    if reason := _why_not(model, config):
        raise refusal(model, config, reason)
    device = next(model.parameters()).device
    arch = model.config.get_text_config(decoder=True)
    prompt = VirtualTokens(arch, config, context, seed=seed, device=device)
    if device.type != "meta":
        initialize_module(prompt)
    prompt.train(model.training)
    model.add_module("prompt", prompt)
    prompt.install(_stack(model))


def refusal(model: PreTrainedModel, config: PromptConfig, reason: str) -> LopeError:
    """Return the error of a model that cannot have virtual tokens."""
    return LopeError(
        f"adapter.kind = '{config.kind}' does not work with this {model.config.model_type} model "
        f"({type(model).__name__}): {reason}; use adapter.kind = 'adalora' or 'lope'."
    )


def _why_not(model: PreTrainedModel, config: PromptConfig) -> str | None:
    """Return what in a model's structure keeps virtual tokens out; None: nothing is known."""
    if model.config.is_encoder_decoder:
        return "it is an encoder-decoder"
    arch = model.config.get_text_config(decoder=True)
    keeps_keys = [isinstance(layer, CacheLayerMixin) for layer in DynamicCache(config=arch).layers]
    if not any(keeps_keys):
        return "none of its layers is attention"
    if isinstance(config, PTuningConfig):
        reads_ids = hasattr(_stack(model), "embed_tokens_per_layer")
        return "its layers read the tokens' ids, which virtual tokens lack" if reads_ids else None
    without = keeps_keys.count(False)
    return f"{without} of its layers keep no keys and values" if without else None


def _stack(model: PreTrainedModel) -> nn.Module:
    """Return the stack of layers with its embedding, without the head."""
    decoder = model.get_decoder()
    if decoder is not model:
        return decoder
    embedding = model.get_input_embeddings()  # a class that names its stack in its own way
    return next(child for child in model.children() if embedding in child.modules())


def build_encoder(config: PromptConfig, arch: PretrainedConfig) -> nn.Module:
    """Return peft's encoder for an architecture, with its own random values."""
    common: dict[str, Any] = {
        "task_type": "CAUSAL_LM",
        "num_virtual_tokens": config.num_virtual_tokens,
        "num_transformer_submodules": 1,
    }
    if isinstance(config, PTuningConfig):
        return PromptEncoder(
            PromptEncoderConfig(
                token_dim=arch.hidden_size,
                encoder_reparameterization_type=config.encoder.upper(),
                encoder_hidden_size=config.encoder_hidden_size,
                **common,
            )
        )
    layers, heads, width = _sizes(arch)
    return PrefixEncoder(
        PrefixTuningConfig(
            num_layers=layers, token_dim=heads * width, num_attention_heads=heads, **common
        )
    )


def _sizes(arch: Any) -> tuple[int, int, int]:
    """Return the layers, the heads of keys and a head's width."""
    heads = getattr(arch, "num_key_value_heads", None) or arch.num_attention_heads
    width = getattr(arch, "head_dim", None) or arch.hidden_size // arch.num_attention_heads
    return arch.num_hidden_layers, heads, width
