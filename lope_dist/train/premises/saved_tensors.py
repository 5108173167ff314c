"""What autograd keeps of a model's forward pass, seen on tensors that have shapes and no values.

The model runs once for each of three short rows under torch's fake tensors: they take no memory
and no time to speak of, dispatch as CPU tensors do, and what a layer saves for its backward pass
is counted by its storages. So the figures are the model's own, whatever its layers are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

from lope_dist.adapters.batch import BatchDescription
from lope_dist.adapters.inject import set_trainable
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import first_line
from lope_dist.engine.activations import FLOAT32, Activations, Curve
from lope_dist.model.frozen_module import FrozenModule, thaw
from lope_dist.train.premises.preflight import preflight
from lope_dist.train.premises.repeated_layers import repeats_left_out

_STEP = 256
"""The rows have one, two and three times so many tokens: whole chunks of a state-space layer."""
_RECURRENT = ("A_log", "dt_bias", "recurrent_param")
"""Parameters by which a state-space, linear-attention or recurrent layer is known."""


def kept_activations(config: RunConfig) -> Activations:
    """Return what the run's model keeps of a row, in the stage that trains most.

    Builds the model once more, unquantized: frozen linear layers keep nothing either way.
    """
    unquantized = {"quantization": "none", "gradient_checkpointing": False}
    model = preflight(
        config.model_copy(update={"model": config.model.model_copy(update=unquantized)})
    ).model
    layers = layers_of(model)
    widths = {name: _widths(layer, model) for name, layer in layers.items()}
    widest = max((max(pair) for pairs in widths.values() for pair in pairs), default=0)
    chunk, bound = 1, None
    if any(name.rpartition(".")[2] in _RECURRENT for name, _ in model.named_parameters()):
        chunk, bound = (
            _STEP,
            "state-space and recurrent layers are counted as transformers' own PyTorch code keeps "
            "them; their kernels keep less",
        )
    if "flash" in str(model.config._attn_implementation):  # it runs on a device alone
        model.set_attn_implementation("sdpa")
        bound = "flash attention is counted as sdpa, which keeps a mask and repeated keys as well"
    _train(model, config)
    for module in model.modules():  # what it does with saved weights would hide them from here
        if isinstance(module, FrozenModule):
            thaw(module)
    log = logging.getLogger("torch._subclasses.fake_tensor")
    log.addFilter(_nothing)  # it would write a traceback of what is told in a sentence here
    try:
        with repeats_left_out(list(layers.values())) as stand_ins:
            runs = [_run(model, list(layers.values()), n * _STEP, config) for n in (1, 2, 3)]
    except Exception as error:  # a model may ask for values, in ways of its own
        reason = first_line(error)
        return _by_width(widths, model, widest, reason[:200].rstrip("."))
    finally:
        log.removeFilter(_nothing)
    outside, inputs, *inside = (Curve.through(_STEP, sizes) for sizes in zip(*runs, strict=True))
    layers_kept = tuple(inside[stand_ins.get(index, index)] for index in range(len(inside)))
    return Activations(outside, inputs, layers_kept, widest, chunk, bound)


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of all stacks: children of the outermost lists of modules with weights."""
    lists: list[str] = []
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        is_inside = any(name.startswith(f"{outer}.") for outer in lists)
        if not isinstance(module, nn.ModuleList) or is_inside:
            continue
        if any(parameter.ndim > 1 for parameter in module.parameters()):
            lists.append(name)
            layers |= {f"{name}.{key}": child for key, child in module.named_children()}
    return layers


def _train(model: PreTrainedModel, config: RunConfig) -> None:
    """Let train what the stage with most parameters trains."""

    def trained() -> int:
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    most = (0, ())
    for stage in config.train.stages.values():
        set_trainable(model, stage.trainable)
        most = max(most, (trained(), stage.trainable), key=lambda each: each[0])
    set_trainable(model, most[1])
    model.train()


def _run(
    model: PreTrainedModel, layers: list[nn.Module], length: int, config: RunConfig
) -> list[int]:
    """Return the bytes kept of one row: outside the layers, of their inputs, inside each."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    _make_fake(model, mode)
    seen = {_storage(t) for t in (*model.parameters(), *model.buffers())}
    outside: dict[int, int] = {}
    inputs: dict[int, int] = {}
    inside: list[dict[int, int]] = [{} for _ in layers]
    owners = [outside]
    alive: list[Tensor] = []  # so that no storage takes the place of another

    def keep(tensor: Tensor) -> Tensor:
        storage = _storage(tensor)
        if storage not in seen:
            seen.add(storage)
            owners[-1][storage] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    def enter(index: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            for tensor in _tensors((args, kwargs)):
                if tensor.is_floating_point() and _storage(tensor) not in parameters:
                    inputs[_storage(tensor)] = tensor.untyped_storage().nbytes()
                    alive.append(tensor)
            owners.append(inside[index])

        return hook

    def leave(*_: Any) -> None:  # what a hook returns would be the layer's output
        owners.pop()

    parameters = set(seen)
    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            handle = layer.register_forward_pre_hook(enter(index), with_kwargs=True)
            stack.callback(handle.remove)
            stack.callback(layer.register_forward_hook(leave).remove)
        stack.enter_context(mode)
        stack.enter_context(saved_tensors_hooks(keep, lambda tensor: tensor))
        model(**_inputs(model, length, config), use_cache=False)
    return [sum(sizes.values()) for sizes in (outside, inputs, *inside)]


def _inputs(model: PreTrainedModel, length: int, config: RunConfig) -> dict[str, Tensor]:
    """Return what a batch of one row has, as `corpus/feed/batches.py` makes it."""
    ids = torch.zeros(1, length, dtype=torch.long)
    mask = torch.ones_like(ids)
    context: Any = model.lope_context
    context.begin_batch(BatchDescription(dict.fromkeys(("decoder", "encoder"), ids.int())))
    if model.config.is_encoder_decoder:
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "decoder_input_ids": ids,
            "decoder_attention_mask": mask,
        }
    if config.data.packing is False:
        return {"input_ids": ids, "attention_mask": mask}
    return {"input_ids": ids, "position_ids": torch.zeros_like(ids)}


def _make_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace parameters and buffers by tensors without values; tied ones stay tied."""
    fakes: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = FakeTensor(mode, _on_meta(parameter.detach()), torch.device("cpu"))
                made = nn.Parameter(fake, requires_grad=parameter.requires_grad)
                module._parameters[name] = fakes.setdefault(id(parameter), made)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = FakeTensor(mode, _on_meta(buffer), torch.device("cpu"))


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in nested arguments."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    if not isinstance(value, (list, tuple, type({}.values()))):
        return []
    return [tensor for each in value for tensor in _tensors(each)]


def _widths(layer: nn.Module, model: PreTrainedModel) -> list[tuple[int, int]]:
    """Return the values a token of both sides of a layer's products.

    Of a bank of experts as many as a token is sent to; all where the architecture tells none.
    """
    chosen = chosen_experts(model)
    shapes = [parameter.shape for parameter in layer.parameters() if parameter.ndim > 1]
    return [
        (times * shape[-2], times * shape[-1])
        for shape in shapes
        for times in [(chosen or shape[0]) if len(shape) > 2 else 1]
    ]


def chosen_experts(model: PreTrainedModel) -> int | None:
    """Return to how many experts of a bank a token is sent; None where that is not told."""
    arch: Any = model.config.get_text_config()
    keys = ("num_experts_per_tok", "top_k_experts", "moe_topk", "top_k")
    return next((n for key in keys if (n := _int(arch, key))), None)


def _nothing(_record: logging.LogRecord) -> bool:
    return False


def _int(arch: Any, key: str) -> int | None:
    value = getattr(arch, key, None)
    return value if isinstance(value, int) else None


def _by_width(
    widths: dict[str, list[tuple[int, int]]], model: PreTrainedModel, widest: int, reason: str
) -> Activations:
    """Return an upper bound from the widths of the layers' weights alone.

    Every product's input and output is kept in float32 and twice in the model's dtype, and every
    attention's probabilities in both.
    """
    value = FLOAT32 + 2 * model.dtype.itemsize
    arch: Any = model.config.get_text_config()
    heads = _int(arch, "num_attention_heads") or _int(arch, "num_heads") or 1
    hidden = _int(arch, "hidden_size") or widest
    inside = []
    for pairs in widths.values():
        vectors = value * sum(map(sum, pairs))
        inside.append(Curve(0, vectors, heads * (FLOAT32 + model.dtype.itemsize)))
    return Activations(
        outside=Curve(0, value * hidden),
        inputs=Curve(0, model.dtype.itemsize * hidden * len(widths)),
        layers=tuple(inside),
        widest=widest,
        bound=f"from the widths of the layers' weights, for it runs with values alone: {reason}",
    )
