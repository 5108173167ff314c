"""Measure what `lope plan` foretells: `measuring.py RECIPE OUT [KEY=VALUE]...`.

Loads the model as a run does and trains three steps of two micro-batches; each rank writes
OUT/RANK.json. Collectives are counted by the bytes that a rank receives.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist

wire: Counter = Counter()
phase = "load"


def count(name: str, factor: float) -> None:
    """Count the calls of one collective; ``factor`` of its largest tensor is received."""
    real = getattr(dist, name)

    def counted(*arguments, **named):
        tensors = [t for t in (*arguments, *named.values()) if isinstance(t, torch.Tensor)]
        largest = max(tensors, key=torch.numel)
        kind = "base" if largest.dtype == torch.bfloat16 else "adapters"
        wire[phase, kind] += int(factor * largest.numel() * largest.element_size())
        return real(*arguments, **named)

    setattr(dist, name, counted)


# before DeepSpeed looks them up; of two ranks' data, half is the rank's own already
count("all_gather_into_tensor", 0.5)
count("reduce_scatter_tensor", 0.5)
count("all_reduce", 1.0)  # a reduce-scatter and an all-gather

from lope_dist.adapters.batch import BatchDescription  # noqa: E402
from lope_dist.adapters.context import StageDescription  # noqa: E402
from lope_dist.adapters.inject import set_trainable  # noqa: E402
from lope_dist.adapters.lope import model_roles  # noqa: E402
from lope_dist.config.load import load_config  # noqa: E402
from lope_dist.core.roles import Role  # noqa: E402
from lope_dist.engine.groups import build_groups  # noqa: E402
from lope_dist.engine.world import start_world  # noqa: E402
from lope_dist.engine.zero import ZeroEngine  # noqa: E402
from lope_dist.model.build import load_model  # noqa: E402
from lope_dist.model.families import family_of  # noqa: E402
from lope_dist.train.premises.preflight import adapt  # noqa: E402
from lope_dist.train.run.setup import placement_of  # noqa: E402

recipe, out, *overrides = sys.argv[1:]
config = load_config(recipe, overrides)
world = start_world(config.engine)
assert world.size == 2, "the factors above are those of two ranks"
model = load_model(config.model, placement_of(config, world), progress=False)
context = adapt(model, config, family_of(model))
stage = config.train.stages["finetune"]
set_trainable(model, stage.trainable)
model.train()
roles = model_roles(model)
groups = build_groups(model, roles, stage)
engine = ZeroEngine(
    model, groups, config.train.optimizer, config.engine, world, config.train.micro_batch
)
base = [p for n, p in model.named_parameters() if roles[n] == Role.BASE]
adapter = [p for n, p in model.named_parameters() if roles[n] != Role.BASE]


def storages(tensors) -> dict[int, int]:
    """Return the bytes of distinct storages by their address."""
    return {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in tensors
        if t is not None and t.numel()
    }


def held(parameters) -> dict[int, int]:
    """Return the storages of parameters: whole, partitioned or both."""
    return storages(p.data for p in parameters) | storages(
        getattr(p, "ds_tensor", None) for p in parameters
    )


def statistics() -> dict[int, int]:
    """Return the storages of scales that no parameter holds, without constant code books."""
    found = {}
    for layer in model.modules():
        nested = getattr(layer, "nested_scales", None)
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if nested is not None:
            found |= storages([nested.absmax])
        elif state is not None:
            found |= storages([state.absmax, state.state2.absmax if state.nested else None])
    return found


def gathered() -> int:
    """Return the bytes of partitioned base weights that are whole now or on their way."""
    present = [p for p in base if hasattr(p, "ds_id") and not p.ds_persist]
    present = [p for p in present if p.ds_status.name != "NOT_AVAILABLE"]
    return sum(p.ds_numel * p.element_size() for p in present)


peaks = [0]
for layer in model.modules():
    if isinstance(layer, torch.nn.Linear | torch.nn.Embedding):  # after DeepSpeed's own hook
        layer.register_forward_pre_hook(lambda *_: peaks.append(gathered()))

rows, length = config.train.micro_batch, config.data.max_length
ids = torch.randint(0, 8000, (rows, length))
inputs = {"input_ids": ids, "position_ids": torch.arange(length).remainder(20).expand(rows, -1)}
keys = torch.arange(rows * length, dtype=torch.int32).view(rows, -1)
context.begin_batch(BatchDescription({"decoder": keys}, torch.ones(rows, length)))
context.begin_stage(StageDescription(collects_usage=True))
parameters = storages(p.data for p in model.parameters())
saved: dict[int, int] = {}
kept = []


def keep(tensor):
    storage = tensor.untyped_storage()
    is_parameter = storage.data_ptr() in parameters or isinstance(tensor, torch.nn.Parameter)
    if not is_parameter and storage.nbytes():
        saved[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)
    return tensor


facts: dict = {}
for step in range(3):  # DeepSpeed gathers ahead once it has seen a whole step
    phase = f"step {step}"
    peaks.clear()
    for micro_step in range(2):
        is_first = step == micro_step == 0
        if is_first and config.engine.zero_stage == 2:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
                output = engine.forward(inputs)
            facts["activations"] = sum(saved.values())
            kept.clear()
        else:
            output = engine.forward(inputs)
        engine.backward(output.logits.float().pow(2).mean(), is_last=micro_step == 1)
        facts["gathered_after_backward"] = gathered()
    inner = engine._engine.optimizer
    if config.engine.zero_stage == 3:
        gradients = storages([inner.grad_partitions_flat_buffer])
        masters = storages(inner.fp32_partitioned_groups_flat)
    else:
        gradients = storages(t for group in inner.averaged_gradients.values() for t in group)
        masters = storages(inner.single_partition_of_fp32_groups)
    facts["gradients"] = sum(gradients.values())
    engine.step(1.0)
facts["gathered"] = max(peaks)
facts["wire_base"] = wire["step 2", "base"]
facts["wire_adapters"] = wire["step 2", "adapters"]
facts["statistics"] = sum(statistics().values())
facts["base_weights"] = sum(held(base).values())
own = held(adapter)
facts["adapters"] = sum(own.values())
moments = storages(
    t for state in inner.optimizer.state.values() for t in state.values() if t.numel() > 1
)
facts["optimizer"] = sum({k: v for k, v in (masters | moments).items() if k not in own}.values())
Path(out, f"{world.rank}.json").write_text(json.dumps(facts))
engine.close()
world.close()
