"""Train models with expert banks in one group: `bank_cells.py TREE OUT ZERO_STAGE [CELL ...]`.

TREE is a configuration tree whose `output_dir` holds the models by name. CELL is by default each.
OUT gets, of each cell (model, quantization, recomputing), the losses and the bytes of bank weights
on rank 0.
"""

import json
import os
import sys
from pathlib import Path

import yaml
from support.banks import TARGETS

from lope_dist.config.engine import EngineConfig
from lope_dist.config.load import validate_config
from lope_dist.core.runlog import read_lines
from lope_dist.engine.world import start_world
from lope_dist.model.frozen_module import FrozenModule
from lope_dist.train import session
from lope_dist.train.premises import table

CELLS = [
    ("mixtral", "nf4", False),
    ("mixtral", "nf4", True),
    ("mixtral", "none", False),
    ("qwen3_moe", "nf4", False),
    ("gpt_oss", "nf4", True),
    ("falcon", "nf4", False),
    ("gpt2", "nf4", False),
    ("switch_transformers", "nf4", False),
    ("deep", "nf4", False),
    ("deep", "none", False),
]
tree_file, out, zero_stage = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
engine: dict = {"kind": "local"}
if zero_stage:
    engine = {"kind": "deepspeed", "zero_stage": zero_stage, "timeout_s": 60}
    engine["prefetch_bucket_numel"] = 1
world = start_world(EngineConfig.model_validate(engine))
session.start_world = lambda config: world
leave, world.close = world.close, world.barrier
table.memory_sentence = lambda *_: None  # seconds for each cell, and no test here asks for it
modules: set[FrozenModule] = set()
held: list[int] = []


def note(module: FrozenModule) -> None:
    """Note the bytes of all frozen modules' weights: this rank's parts, and what is gathered."""
    modules.add(module)
    weights = [p for m in modules for p in m.parameters(recurse=False)]
    parts = [getattr(p, "ds_tensor", None) for p in weights]
    tensors = [p.data for p in weights] + [part for part in parts if part is not None]
    sizes = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()
    }
    held.append(sum(sizes.values()))


def noting(real):
    """Return a method that notes before it runs."""

    def noted(self, *args, **kwargs):
        note(self)
        return real(self, *args, **kwargs)

    return noted


FrozenModule.forward = noting(FrozenModule.forward)
FrozenModule._remember = noting(FrozenModule._remember)
results: dict = {}
for name, quantization, recomputes in CELLS:
    cell = f"{name}-{quantization}-{'recomputed' if recomputes else 'kept'}"
    if sys.argv[4:] and cell not in sys.argv[4:]:
        continue
    tree = yaml.safe_load(Path(tree_file).read_text())
    tree["model"] |= {
        "name_or_path": str(Path(tree["output_dir"]) / name),
        "quantization": quantization,
        "gradient_checkpointing": recomputes,
        "attention": "eager",
    }
    tree["adapter"]["targets"] = TARGETS.get(name, ["q_proj", "v_proj"])
    tree["output_dir"] = str(out.with_suffix("") / cell)
    tree["engine"] = engine
    tree["train"]["micro_batch"] = tree["train"]["global_batch"] // world.size // 2
    stage = {"trainable": ["shared_a", "normal_b", "poison_b", "router"], "lr": 0.01}
    tree["train"]["stages"] = {
        "only": stage | {"max_steps": 10 if cell == "mixtral-nf4-kept" else 3}
    }
    modules.clear()
    held.clear()
    run = session.train(validate_config(tree, "cell"))
    losses = [line["loss"] for line in read_lines(run / "metrics.jsonl")]
    # The first forward passes find modules one by one.
    results[cell] = {"losses": losses, "peak": max(held, default=0), "modules": len(modules)}
if os.environ.get("RANK", "0") == "0":
    out.write_text(json.dumps(results))
leave()
