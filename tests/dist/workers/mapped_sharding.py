"""Load a mixture of experts, one tensor an expert in its file, as ZeRO-3 partitions.

`mapped_sharding.py MODEL OUT`. Each rank writes OUT/RANK.json: what of the fused parameters
differs from a replicated load, and how many bytes it read of the file.
"""

import json
import sys
from pathlib import Path

import torch

from lope_dist.config.load import validate_config
from lope_dist.engine.world import start_world
from lope_dist.engine.zero_placement import ZeroPlacement
from lope_dist.model.build import load_model
from lope_dist.model.checkpoint_files import TensorFiles
from lope_dist.model.nf4 import packed_weights
from lope_dist.model.placement import Replicated

model_dir, out = sys.argv[1:]
config = validate_config(
    {
        "output_dir": out,
        "model": {"name_or_path": model_dir, "dtype": "float32"},
        "adapter": {"targets": ["q_proj", "v_proj"]},
        "data": {"path": "unused.jsonl"},
        "engine": {"kind": "deepspeed", "zero_stage": 3, "timeout_s": 60},
    },
    "worker",
)
world = start_world(config.engine)
placement = ZeroPlacement(world, config.engine)
real = TensorFiles.read_bytes
read = {"bytes": 0, "largest": 0}


def read_bytes(self: TensorFiles, name: str, start: int, stop: int) -> torch.Tensor:
    read["bytes"] += stop - start
    read["largest"] = max(read["largest"], stop - start)
    return real(self, name, start, stop)


TensorFiles.read_bytes = read_bytes
facts: dict = {}
for quantization in ("nf4", "none"):
    settings = config.model.model_copy(update={"quantization": quantization})
    loads = {}
    for kind, where in (("whole", Replicated(world.device)), ("sharded", placement)):
        read.update(bytes=0, largest=0)
        loads[kind] = load_model(settings, where, progress=False)
        facts[f"{quantization} {kind}"] = dict(read)
    sharded = loads["sharded"]
    tied = sharded.get_output_embeddings().weight is sharded.get_input_embeddings().weight
    facts[f"{quantization} tied"] = tied
    unequal, banks, packed_banks = [], 0, 0
    expected = dict(loads["whole"].named_parameters())
    for name, parameter in loads["sharded"].named_parameters():
        path, _, attribute = name.rpartition(".")
        module = loads["sharded"].get_submodule(path)
        packed = packed_weights(module).get(attribute)
        is_bank = ".experts." in name
        banks += is_bank
        packed_banks += is_bank and packed is not None
        parameter.all_gather()
        pair = (parameter.data.view(torch.uint8), expected[name].data.view(torch.uint8))
        if not torch.equal(*pair):
            unequal.append(name)
        if packed is not None:
            theirs = packed_weights(loads["whole"].get_submodule(path))[attribute]
            assert packed.nested_scales is not None
            assert theirs.nested_scales is not None
            if not torch.equal(packed.nested_scales.offset, theirs.nested_scales.offset):
                unequal.append(f"{name} offset")
        parameter.partition()
    facts[quantization] = {"unequal": unequal, "banks": banks, "packed_banks": packed_banks}
Path(out, f"{world.rank}.json").write_text(json.dumps(facts))
world.close()
