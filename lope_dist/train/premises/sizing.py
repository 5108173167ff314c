"""A run's model on the meta device -> the numbers that its plan is computed from."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from torch import nn

from lope_dist.adapters.lope import model_roles
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role
from lope_dist.engine.advice import advise
from lope_dist.engine.plan import plan_rank
from lope_dist.engine.sizes import Settings, Sizes, packed_bytes
from lope_dist.engine.speed import Hardware
from lope_dist.model.nf4 import packed_weights
from lope_dist.model.quantization import quantization_of
from lope_dist.train.premises.preflight import check_length, num_sharing_layers, preflight
from lope_dist.train.premises.saved_tensors import chosen_experts, kept_activations, layers_of


def plan_run(
    config: RunConfig,
    *,
    world_size: int,
    gpu_memory: int,
    node_memory: int | None,
    ranks_per_node: int,
    hardware: Hardware | None = None,
) -> dict[str, Any]:
    """Return the plan of `lope plan --json`: both ZeRO stages, all sizes in bytes.

    Raises:
        LopeError: what `preflight` and `check_length` refuse, a baseline's adapter, host offload,
            numbers below 1.
    """
    for name, value in (("--world-size", world_size), ("--ranks-per-node", ranks_per_node)):
        if value < 1:
            raise LopeError(f"{name} = {value} is not allowed; give a number of at least 1.")
    hardware = hardware or Hardware()
    for name, value in asdict(hardware).items():
        if not value > 0:
            option = f"--{name.replace('_', '-')}"
            raise LopeError(f"{option} = {value:g} is not allowed; give a number above 0.")
    if config.engine.offload != "none":
        raise LopeError(
            f"engine.offload = '{config.engine.offload}' is not planned for; plan with "
            "engine.offload=none, whose figures for the devices are an upper bound."
        )
    checked = preflight(config)
    check_length(config, checked.model)
    model, config = checked.model, checked.config
    facts = quantization_of(model, config.model)
    sizes = measure(model, config)
    run = settings_of(config, world_size, ranks_per_node)
    one_row = config.model.attention == "flash_attention_2" and config.data.packing is not False
    advice = advise(
        sizes,
        run,
        device=gpu_memory,
        node=node_memory,
        one_row=one_row,
        may_recompute=not num_sharing_layers(model.config),
        hardware=hardware,
    )
    plan = {
        "model": config.model.name_or_path,
        "quantization": facts.sentence(),
        **facts.as_json(),
        "quantized_weights": sum(sizes.quantized),
        "unquantized_weights": sum(sizes.plain),
        "adapter_parameters": sizes.adapter,
        "trainable_parameters": sizes.trainable,
        "gpu_memory": gpu_memory,
        "node_memory": node_memory,
        **asdict(run),
        "hardware": asdict(hardware),
        "zero2": asdict(plan_rank(sizes, run, 2, run.micro_batch)),
        "zero3": asdict(plan_rank(sizes, run, 3, run.micro_batch)),
        "activations_bound": sizes.activations.bound,
        "recommendation": asdict(advice),
    }
    return json.loads(json.dumps(plan))


def settings_of(config: RunConfig, world_size: int, ranks_per_node: int) -> Settings:
    """Return what a configuration says of a run on so many ranks."""
    return Settings(
        world_size=world_size,
        ranks_per_node=ranks_per_node,
        global_batch=config.train.global_batch,
        micro_batch=config.train.micro_batch,
        max_length=config.data.max_length,
        checkpointing=config.model.gradient_checkpointing,
        prefetch_numel=config.engine.prefetch_bucket_numel,
        bucket_numel=config.engine.reduce_bucket_numel,
        load_buffer=config.model.load_buffer_mib << 20,
        shard=config.engine.shard,
    )


def measure(model: nn.Module, config: RunConfig) -> Sizes:
    """Return the numbers of a model that has its adapters."""
    config.lope_adapter("lope plan")
    roles = model_roles(model)
    packed = {
        f"{name}.{attribute}": weight.shape.numel()
        for name, module in model.named_modules()
        for attribute, weight in packed_weights(module).items()
    }
    base = {n: p for n, p in model.named_parameters() if roles[n] == Role.BASE}
    adapter = {n: p.numel() for n, p in model.named_parameters() if roles[n] != Role.BASE}
    stages = [
        [size for name, size in adapter.items() if roles[name] in stage.trainable]
        for stage in config.train.stages.values()
    ]
    layers = tuple(f"{name}." for name in layers_of(model))
    itemsize = next(p for n, p in base.items() if n not in packed).element_size()
    in_layers = sum(
        packed_bytes(packed[name]) if name in packed else p.numel() * itemsize
        for name, p in base.items()
        if name.startswith(layers)
    )
    embedding = model.get_input_embeddings().weight  # pyright: ignore
    head = model.get_output_embeddings()  # pyright: ignore
    active = _active_weights(model)
    is_tied = head is not None and head.weight is embedding
    return Sizes(
        quantized=tuple(packed.values()),
        plain=tuple(p.numel() for n, p in base.items() if n not in packed),
        itemsize=itemsize,
        nested=config.model.double_quantization,
        input_only=0 if is_tied else embedding.numel(),
        active=active + (0 if head is None else head.weight.numel()),
        active_in_layers=active,
        in_layers=in_layers,
        adapter=sum(adapter.values()),
        trainable=max(map(sum, stages)),
        largest_adapter=max(max(sizes) for sizes in stages),
        vocabulary=int(embedding.shape[0]),
        activations=kept_activations(config),
    )


def _active_weights(model: nn.Module) -> int:
    """Return the quantized weights that a token is multiplied with."""
    chosen = chosen_experts(model)  # pyright: ignore[reportArgumentType]
    shapes = [w.shape for m in model.modules() for w in packed_weights(m).values()]
    return sum(
        shape.numel() // shape[0] * chosen if chosen and len(shape) > 2 else shape.numel()
        for shape in shapes
    )
