"""A run's model on the meta device -> the numbers that its plan is computed from."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from torch import nn

from lope_dist.adapters.lope import LopeLinear, model_roles
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role
from lope_dist.engine.activations import Adapters, Block
from lope_dist.engine.advice import advise
from lope_dist.engine.plan import plan_rank
from lope_dist.engine.sizes import Settings, Sizes, packed_bytes
from lope_dist.model.nf4 import NF4Linear
from lope_dist.train.preflight import preflight

_QUERIES, _KEYS, _VALUES = ("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v")
_GATED = 3  # linear layers of an MLP with a gate, and inner vectors that it keeps


def plan_run(
    config: RunConfig,
    *,
    world_size: int,
    gpu_memory: int,
    node_memory: int | None,
    ranks_per_node: int,
) -> dict[str, Any]:
    """Return the plan of `lope plan --json`: both ZeRO stages, all sizes in bytes.

    Raises:
        LopeError: what `preflight` refuses, a model of an unknown build, host offload, numbers
            below 1.
    """
    for name, value in (("--world-size", world_size), ("--ranks-per-node", ranks_per_node)):
        if value < 1:
            raise LopeError(f"{name} = {value} is not allowed; give a number of at least 1.")
    if config.engine.offload != "none":
        raise LopeError(
            f"engine.offload = '{config.engine.offload}' is not planned for; plan with "
            "engine.offload=none, whose figures for the devices are an upper bound."
        )
    sizes = measure(preflight(config).model, config)
    run = Settings(
        world_size=world_size,
        ranks_per_node=ranks_per_node,
        global_batch=config.train.global_batch,
        micro_batch=config.train.micro_batch,
        max_length=config.data.max_length,
        checkpointing=config.model.gradient_checkpointing,
        prefetch_numel=config.engine.prefetch_bucket_numel,
        bucket_numel=config.engine.reduce_bucket_numel,
        load_buffer=config.model.load_buffer_mib << 20,
    )
    one_row = config.model.attention == "flash_attention_2" and config.data.packing
    advice = advise(sizes, run, device=gpu_memory, node=node_memory, one_row=one_row)
    plan = {
        "model": config.model.name_or_path,
        "quantized_weights": sum(sizes.quantized),
        "unquantized_weights": sum(sizes.plain),
        "adapter_parameters": sizes.adapter,
        "trainable_parameters": sizes.trainable,
        "gpu_memory": gpu_memory,
        "node_memory": node_memory,
        **asdict(run),
        "zero2": asdict(plan_rank(sizes, run, 2, run.micro_batch)),
        "zero3": asdict(plan_rank(sizes, run, 3, run.micro_batch)),
        "recommendation": asdict(advice),
    }
    return json.loads(json.dumps(plan))


def measure(model: nn.Module, config: RunConfig) -> Sizes:
    """Return the numbers of a model that has its adapters."""
    adapters = config.lope_adapter("lope plan")
    roles = model_roles(model)
    packed = {
        f"{name}.weight": layer.in_features * layer.out_features
        for name, layer in model.named_modules()
        if isinstance(layer, NF4Linear)
    }
    base = {n: p for n, p in model.named_parameters() if roles[n] == Role.BASE}
    adapter = {n: p.numel() for n, p in model.named_parameters() if roles[n] != Role.BASE}
    stages = [
        [size for name, size in adapter.items() if roles[name] in stage.trainable]
        for stage in config.train.stages.values()
    ]
    stacks = _stacks(model)
    itemsize = next(p for n, p in base.items() if n not in packed).element_size()
    in_layers = sum(
        packed_bytes(packed[name]) if name in packed else p.numel() * itemsize
        for name, p in base.items()
        if any(name.startswith(f"{stack}.") for stack in stacks)
    )
    embedding = model.get_input_embeddings().weight  # pyright: ignore
    head = model.get_output_embeddings()  # pyright: ignore
    is_tied = head is not None and head.weight is embedding
    return Sizes(
        quantized=tuple(packed.values()),
        plain=tuple(p.numel() for n, p in base.items() if n not in packed),
        itemsize=itemsize,
        nested=config.model.double_quantization,
        input_only=0 if is_tied else embedding.numel(),
        in_layers=in_layers,
        adapter=sum(adapter.values()),
        trainable=max(map(sum, stages)),
        largest_adapter=max(max(sizes) for sizes in stages),
        vocabulary=int(embedding.shape[0]),
        blocks=tuple(_block(name, stack, model.config) for name, stack in stacks.items()),
        adapters=Adapters(
            rank=adapters.rank,
            num_experts=adapters.num_experts,
            has_router=adapters.has_router,
            router_reads_rank=adapters.router == "rank",
        ),
        attention=config.model.attention,
    )


def _stacks(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Return the lists of layers: outermost module lists that hold linear layers."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        is_inside = any(name.startswith(f"{outer}.") for outer in found)
        if not isinstance(module, nn.ModuleList) or is_inside:
            continue
        if any(isinstance(m, nn.Linear) for m in module.modules()):
            found[name] = module
    return found


def _block(name: str, stack: nn.ModuleList, arch: Any) -> Block:
    """Return the shapes of a stack's last layer, which stands for all.

    Raises:
        LopeError: a layer without separate query, key and value projections.
    """
    layer = stack[-1]
    attention: dict[str, nn.Linear] = {}
    mlp: list[nn.Linear] = []
    for path, module in layer.named_modules():
        if isinstance(module, nn.Linear):
            path = path.removesuffix(".base")
            if "attention" in path.lower() or "attn" in path.lower():
                attention[path] = module
            else:
                mlp.append(module)
    queries, keys = (
        [m for path, m in attention.items() if path.rpartition(".")[2] in leaves]
        for leaves in (_QUERIES, _KEYS)
    )
    if not queries or not keys or not mlp:
        raise LopeError(
            f"The layers of {name} have no separate {_QUERIES[0]} and {_KEYS[0]} and an MLP of "
            "linear layers; `lope plan` knows the shapes of Llama's, Qwen's, Mistral's and T5's."
        )
    heads = getattr(arch, "num_attention_heads", None) or arch.num_heads
    is_t5 = arch.model_type == "t5"
    adapted = {path: m for path, m in layer.named_modules() if isinstance(m, LopeLinear)}
    return Block(
        count=len(stack),
        hidden=queries[0].in_features,
        norms=_norm_width(layer, queries[0].out_features, keys[0].out_features),
        norm_keeps_input=is_t5,
        attentions=len(queries),
        heads=heads,
        query=queries[0].out_features,
        key=keys[0].out_features,
        mlp_inner=mlp[0].out_features,
        mlp_kept=_GATED if len(mlp) == _GATED else 1,
        bias_heads=heads if is_t5 else 1,
        adapters=len(adapted),
        adapter_inputs=sum(
            {_input_of(path): m.in_features for path, m in adapted.items()}.values()
        ),
    )


def _norm_width(layer: nn.Module, query: int, key: int) -> int:
    widths = {"q_norm": query, "k_norm": key}  # over each head: their weight is one head's
    return sum(
        widths.get(path.rpartition(".")[2], module.get_parameter("weight").numel())
        for path, module in layer.named_modules()
        if type(module).__name__.endswith("Norm")
    )


def _input_of(path: str) -> str:
    """Return a name for a linear layer's input; layers that share one have the same."""
    parent, _, leaf = path.rpartition(".")
    if leaf in (*_QUERIES, *_KEYS, *_VALUES):
        is_cross = "EncDecAttention" in parent and leaf not in _QUERIES
        return f"{parent}:{'encoder' if is_cross else 'in'}"
    if leaf in ("gate_proj", "up_proj", "wi_0", "wi_1"):
        return f"{parent}:in"
    return path
