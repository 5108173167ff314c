"""Load a model as ZeRO-3 partitions and compare it with a replicated load.

`sharding.py MODEL OUT`; each rank writes OUT/RANK.json.
"""

import gc
import json
import sys
from pathlib import Path

import torch
from bitsandbytes.nn import Linear4bit

from lope_dist.adapters.inject import set_trainable
from lope_dist.adapters.lope import model_roles
from lope_dist.config.load import validate_config
from lope_dist.core.roles import Role
from lope_dist.engine.groups import build_groups
from lope_dist.engine.world import start_world
from lope_dist.engine.zero import ZeroEngine
from lope_dist.engine.zero_placement import ZeroPlacement
from lope_dist.model.build import load_model
from lope_dist.model.families import FAMILIES
from lope_dist.model.nf4 import NF4Linear
from lope_dist.model.placement import Replicated
from lope_dist.train.preflight import adapt

model_dir, out = sys.argv[1:]
config = validate_config(
    {
        "output_dir": out,
        "model": {"name_or_path": model_dir, "dtype": "float32"},
        "adapter": {
            "dropout": 0.0,
            "rank": 2,
        },  # smaller than any NF4 weight, which else stay resident
        "data": {"path": "unused.jsonl"},
        "engine": {"kind": "deepspeed", "zero_stage": 3, "timeout_s": 60},
    },
    "worker",
)
world = start_world(config.engine)
whole = load_model(config.model, Replicated(world.device), progress=False)
sharded = load_model(config.model, ZeroPlacement(world), progress=False)
facts: dict = {"unequal": [], "unequal_states": [], "kept_elements": 0, "whole_elements": 0}

wholes = dict(whole.named_parameters())
facts["num_compared"] = len(wholes)
for name, parameter in sharded.named_parameters():
    facts["kept_elements"] += parameter.ds_tensor.numel() + parameter.data.numel()
    facts["whole_elements"] += wholes[name].numel()
    parameter.all_gather()
    # as bits: packed weights read as floats are NaN here and there, and NaN equals nothing
    if not torch.equal(parameter.data.view(torch.int32), wholes[name].data.view(torch.int32)):
        facts["unequal"].append(name)
    parameter.partition()

states = [m.weight.quant_state for m in whole.modules() if isinstance(m, NF4Linear)]
layers = [m for m in sharded.modules() if isinstance(m, NF4Linear)]
facts["num_states"] = len(states)
for expected, layer in zip(states, layers, strict=True):
    state = layer.weight.quant_state
    pairs = [
        (state.absmax, expected.absmax),
        (state.offset, expected.offset),
        (state.state2.absmax, expected.state2.absmax),
    ]
    if not all(torch.equal(*pair) for pair in pairs):
        facts["unequal_states"].append(str(layer))

ids = torch.arange(40).view(2, 20)
for model in (whole, sharded):
    adapt(model, config, FAMILIES["llama"])
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


def live_nf4_bytes(forward) -> int:
    """Bytes of gathered NF4 weights that outlive a forward pass while its graph is alive."""
    columns = {(layer.weight.ds_numel, 1) for layer in layers}
    NF4Linear.forward = forward
    gc.collect()
    output = engine.forward({"input_ids": ids})
    storages = {}
    for thing in gc.get_objects():
        # A gathered weight as bitsandbytes keeps it: a column of packed elements.
        if isinstance(thing, torch.Tensor) and tuple(thing.shape) in columns:
            storages[thing.untyped_storage().data_ptr()] = thing.numel() * thing.element_size()
    for layer in layers:  # and what is still gathered in the parameters themselves
        data = layer.weight.data
        if data.numel():
            storages[data.untyped_storage().data_ptr()] = data.numel() * data.element_size()
    engine.backward(output.logits.float().sum(), is_last=True)
    return sum(storages.values())


expected = None
del whole, wholes, states, model, state, pairs, parameter
facts["nf4_bytes"] = sum(layer.weight.ds_numel * 4 for layer in layers)
facts["live_nf4_bytes_ours"] = live_nf4_bytes(NF4Linear.forward)
facts["live_nf4_bytes_stock"] = live_nf4_bytes(Linear4bit.forward)
Path(out, f"{world.rank}.json").write_text(json.dumps(facts))
engine.close()
world.close()
