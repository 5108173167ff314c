"""The model as transformers knows it: its configuration and its tensors, made one at a time."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from lope_dist.adapters.lope import LopeLinear
from lope_dist.core.errors import LopeError
from lope_dist.engine.gathering import Weights
from lope_dist.evaluate.loaded.load import LoadedRun
from lope_dist.export.static import LowRank
from lope_dist.model.nf4 import packed_weights
from lope_dist.model.source import model_folder
from lope_dist.model.without_weights import without_weights

_LAYER = re.compile(r".*?\.\d+(?=\.)")


@dataclass(frozen=True)
class PlainModel:
    """What transformers makes of a configuration.

    Attributes:
        config: What `config.json` says.
        skeleton: The model on the meta device, of transformers' own layers.
    """

    config: PretrainedConfig
    skeleton: PreTrainedModel

    @property
    def names(self) -> list[str]:
        """The tensors that a file of it holds, in the model's layout; tied ones once."""
        tied = self.skeleton.all_tied_weights_keys
        ignored = set(self.skeleton._keys_to_ignore_on_save or ())
        return [
            next((name for name in names if name not in tied), names[0])
            for names in _names_by_tensor(self.skeleton)
            if not ignored & set(names)
        ]


def plain_model(run: LoadedRun, changed: Collection[str] = ()) -> PlainModel:
    """Return the plain model of a run.

    Args:
        run: Whose base it is.
        changed: Layers whose weights will be others than the base's. If one of them is tied, to
            the embedding, the weights of this model are not.

    Raises:
        LopeError: such a tie that the configuration does not govern.
    """
    config = _base_config(run)
    plain = PlainModel(config, _skeleton(run, config))
    if tied := _tied_among(plain.skeleton, changed):
        for part in {id(c): c for c in (config, config.get_text_config())}.values():
            part.tie_word_embeddings = False
        plain = PlainModel(config, _skeleton(run, config))
        if _tied_among(plain.skeleton, changed):
            raise LopeError(
                f"--format merged: the weight of {tied[0]} is adapted, and "
                f"{type(plain.skeleton).__name__} shares it with another layer whatever its "
                "configuration says; use --format peft."
            )
    return plain


def plain_layers(
    run: LoadedRun, plain: PlainModel, weights: Weights, layers: Mapping[str, LowRank]
) -> Iterator[dict[str, Tensor]]:
    """Yield the plain model's tensors by name, on the host: those outside the layers, then layers.

    Of a base that is spread over ranks, one layer is whole at a time.

    Args:
        run: Whose weights they are.
        plain: What its model is without adapters.
        weights: What `run.together` gives.
        layers: What is added to the weights of which layer; none: the base, dequantized.

    Collective: as a forward pass.
    """
    for names in _by_layer(plain.names):
        tensors = {}
        with ExitStack() as gathered:
            for name in names:
                module, leaf = _home(run.model, name)
                gathered.enter_context(weights.whole(getattr(module, leaf)))
                low = layers.get(name.removesuffix(".weight")) if leaf == "weight" else None
                tensors[name] = _plain_tensor(module, leaf, low).cpu()
        yield tensors


def _by_layer(names: Sequence[str]) -> list[list[str]]:
    """Return the names layer by layer, `model.layers.0` and so on; first what is in none."""
    by_layer: dict[str, list[str]] = {"": []}
    for name in names:
        layer = _LAYER.match(name)
        by_layer.setdefault(layer[0] if layer else "", []).append(name)
    return list(by_layer.values())


def _home(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module of the run's model that keeps a tensor of the plain model, and its name."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    return (module.base if isinstance(module, LopeLinear) else module), leaf


def _plain_tensor(module: nn.Module, leaf: str, low: LowRank | None) -> Tensor:
    """Return a tensor of a layer: dequantized, a static LoRA added, rounded once.

    In the dtype that the run computes with.
    """
    value = getattr(module, leaf).detach()
    if packed := packed_weights(module).get(leaf):
        value = packed.dequantize(value)
    if low is not None:
        delta = (low.B_OR @ low.A_RD * low.scaling).to(value.device)
        delta = delta.t() if isinstance(module, Conv1D) else delta
        value = (value.float() + delta).to(value.dtype)
    return value


class MergedLinear(nn.Module):
    """An adapted layer with the sum as its weight, which is made anew whenever it computes."""

    def __init__(self, layer: LopeLinear, low_rank: LowRank, weights: Weights) -> None:
        super().__init__()
        self.base = layer.base
        self._low_rank, self._weights = low_rank, weights

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer's output."""
        with self._weights.whole(self.base.weight):
            weight = _plain_tensor(self.base, "weight", self._low_rank)
            weight = weight.t() if isinstance(self.base, Conv1D) else weight
            return nn.functional.linear(x, weight, self.base.bias)


def _base_config(run: LoadedRun) -> PretrainedConfig:
    """Return the base's configuration as it was before this project built a model of it."""
    model, settings = run.model, run.config.model
    config = AutoConfig.from_pretrained(
        model_folder(settings), trust_remote_code=settings.runs_remote_code
    )
    if type(config) is not type(model.config):  # its text part alone was trained
        config = config.get_text_config()
    assert type(config) is type(model.config)
    vars(config).pop("quantization_config", None)
    if config.tie_word_embeddings and not model.all_tied_weights_keys:
        config.tie_word_embeddings = False  # the files hold another head
    config.architectures = [type(model).__name__]
    config.dtype = settings.dtype
    return config


def _skeleton(run: LoadedRun, config: PretrainedConfig) -> PreTrainedModel:
    with without_weights():
        skeleton = type(run.model)._from_config(
            config, attn_implementation=run.model.config._attn_implementation
        )
    skeleton.tie_weights()  # creating each parameter on meta by itself has untied them
    return skeleton


def _names_by_tensor(model: nn.Module) -> list[list[str]]:
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return list(names.values())


def _tied_among(model: nn.Module, layers: Collection[str]) -> list[str]:
    """Return those of the layers whose weight is another's too."""
    tied = {name for names in _names_by_tensor(model) if len(names) > 1 for name in names}
    return [name for name in layers if f"{name}.weight" in tied]


def auto_class(run: LoadedRun) -> str:
    """Return the name of what a reader calls for a model of this class: an auto class, if any."""
    for auto in (AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForImageTextToText):
        if auto._model_mapping.get(type(run.model.config), None) is type(run.model):
            return auto.__name__
    return type(run.model).__name__
