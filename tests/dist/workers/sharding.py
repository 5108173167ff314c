"""Load a model as ZeRO-3 partitions and compare it with a replicated load.

`sharding.py MODEL PACKED OUT RANKS_PER_HOST`; PACKED is the same model as bitsandbytes saves it.
With fewer ranks a host than there are, each host has a copy. Each rank writes OUT/RANK.json.
"""

import gc
import json
import sys
from dataclasses import replace
from pathlib import Path

import bitsandbytes as bnb
import torch
from safetensors.torch import load_file

from lope_dist.adapters.inject import set_trainable
from lope_dist.adapters.lope import model_roles
from lope_dist.config.load import validate_config
from lope_dist.core.roles import Role
from lope_dist.engine import nodes
from lope_dist.engine.groups import build_groups
from lope_dist.engine.processes import process_identity
from lope_dist.engine.world import start_world
from lope_dist.engine.zero import ZeroEngine
from lope_dist.engine.zero_placement import ZeroPlacement
from lope_dist.model.build import load_model
from lope_dist.model.families import family_of
from lope_dist.model.nf4 import NF4Linear
from lope_dist.model.placement import Replicated
from lope_dist.train.premises.preflight import adapt

model_dir, packed_dir, out = sys.argv[1:4]
per_host = int(sys.argv[4])
config = validate_config(
    {
        "output_dir": out,
        "model": {"name_or_path": model_dir, "dtype": "float32"},
        "adapter": {
            "dropout": 0.0,
            "rank": 2,
        },  # smaller than any NF4 weight, which else stay resident
        "data": {"path": "unused.jsonl"},
        "engine": {"kind": "deepspeed", "zero_stage": 3, "timeout_s": 60, "shard": "node"},
    },
    "worker",
)
world = start_world(config.engine)
host = replace(process_identity(), machine=f"host {world.rank // per_host}")
nodes.process_identity = lambda: host
placement = ZeroPlacement(world, config.engine)
whole = load_model(config.model, Replicated(world.device), progress=False)
sharded = load_model(config.model, placement, progress=False)
packed_config = config.model.model_copy(update={"name_or_path": packed_dir})
packed = load_model(packed_config, placement, progress=False)
facts: dict = {"unequal": [], "unequal_packed": [], "unequal_to_bitsandbytes": []}
facts |= {"kept_elements": 0, "whole_elements": 0}


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Packed bytes may read as NaN, which equals nothing."""
    return a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def same_nested(a: NF4Linear, b: NF4Linear) -> bool:
    pairs = [(getattr(a.nested_scales, k), getattr(b.nested_scales, k)) for k in ("absmax", "code")]
    pairs.append((a.nested_scales.offset, b.nested_scales.offset))
    return all(torch.equal(*pair) for pair in pairs)


def as_bitsandbytes(layer: NF4Linear, weight: torch.Tensor) -> bool:
    """Compare a gathered layer with bitsandbytes' quantization of the whole tensor."""
    expected, theirs = bnb.functional.quantize_4bit(
        weight, quant_type="nf4", compress_statistics=True, quant_storage=torch.uint8
    )
    found, ours = layer.packed()
    pairs = [
        (found, expected),
        (ours.absmax, theirs.absmax),
        (ours.offset, theirs.offset),
        (ours.state2.absmax, theirs.state2.absmax),
        (ours.state2.code, theirs.state2.code),
    ]
    return all(torch.equal(*pair) for pair in pairs)


files = load_file(Path(model_dir, "model.safetensors"))
wholes, packeds = dict(whole.named_parameters()), dict(packed.named_parameters())
facts["num_compared"] = len(wholes)
facts["num_quantized"] = 0
for name, parameter in sharded.named_parameters():
    owner = name.rpartition(".")[0]
    layer = sharded.get_submodule(owner)
    facts["kept_elements"] += parameter.ds_tensor.numel() + parameter.data.numel()
    facts["whole_elements"] += wholes[name].numel()
    parameter.all_gather()
    packeds[name].all_gather()
    if not same_bits(parameter.data, wholes[name].data):
        facts["unequal"].append(name)
    if not same_bits(parameter.data, packeds[name].data):
        facts["unequal_packed"].append(name)
    if isinstance(layer, NF4Linear):
        facts["num_quantized"] += 1
        if not same_nested(layer, whole.get_submodule(owner)):
            facts["unequal"].append(name)
        if not same_nested(layer, packed.get_submodule(owner)):
            facts["unequal_packed"].append(name)
        if not as_bitsandbytes(layer, files[name]):
            facts["unequal_to_bitsandbytes"].append(name)
    parameter.partition()
    packeds[name].partition()
layers = [m for m in sharded.modules() if isinstance(m, NF4Linear)]

ids = torch.arange(40).view(2, 20)
for model in (whole, sharded):
    adapt(model, config, family_of(model))
roles = (Role.SHARED_A, Role.NORMAL_B, Role.POISON_B, Role.ROUTER)
stage = config.train.stages["finetune"].model_copy(update={"trainable": roles})
set_trainable(sharded, roles)
groups = build_groups(sharded, model_roles(sharded), stage)
engine = ZeroEngine(sharded, groups, config.train.optimizer, config.engine, world, 2)

expected = whole(ids).logits
sharded.train()
facts["logits_equal"] = torch.equal(engine.forward({"input_ids": ids}).logits, expected)
sharded.eval()
with torch.no_grad():
    engine.forward({"input_ids": ids})
sharded.train()
facts["logits_equal_after_eval"] = torch.equal(engine.forward({"input_ids": ids}).logits, expected)


def stock_forward(layer: NF4Linear, x: torch.Tensor) -> torch.Tensor:
    """What bitsandbytes' own layer does with the same weight."""
    weight, state = layer.packed()
    return bnb.matmul_4bit(x, weight.t(), bias=layer.bias, quant_state=state)


def weight_storages() -> dict[int, torch.UntypedStorage]:
    """Address -> what looks like a whole packed weight: flat, or a column of bytes."""
    shapes = {(layer.layout.packed_bytes, 1) for layer in layers}
    shapes |= {(layer.layout.num_elements,) for layer in layers}
    found = [
        x for x in gc.get_objects() if isinstance(x, torch.Tensor) and tuple(x.shape) in shapes
    ]
    return {x.untyped_storage().data_ptr(): x.untyped_storage() for x in found}


def live_nf4_bytes(forward) -> int:
    """Bytes of gathered NF4 weights that outlive a forward pass while its graph is alive."""
    NF4Linear.forward = forward
    gc.collect()
    before = weight_storages()  # partitions, and other models' weights; kept, so not used anew
    output = engine.forward({"input_ids": ids})
    after = weight_storages()
    engine.backward(output.logits.float().sum(), is_last=True)
    return sum(storage.nbytes() for address, storage in after.items() if address not in before)


facts["nf4_bytes"] = sum(layer.layout.packed_bytes for layer in layers)
facts["live_nf4_bytes_ours"] = live_nf4_bytes(NF4Linear.forward)
facts["live_nf4_bytes_stock"] = live_nf4_bytes(stock_forward)
Path(out, f"{world.rank}.json").write_text(json.dumps(facts))
engine.close()
world.close()
