"""Train adapter kinds briefly in one group: `adapter_cells.py TREE OUT ZERO_STAGE [KIND ...]`.

TREE is a configuration tree, ZERO_STAGE 0 the local engine, KIND by default each. A cell is an
adapter kind, a number of micro-batches a rank and step, and recomputation on or off; OUT gets each
cell's losses. LoPE has all four cells on every engine; another kind has two, and all four on the
ZeRO stages together.
"""

import json
import os
import sys
import traceback
from itertools import product
from pathlib import Path

import yaml
from support.baselines import ALL, stage_of

from lope_dist.config.engine import EngineConfig
from lope_dist.config.load import validate_config
from lope_dist.core.runlog import read_lines
from lope_dist.engine.world import start_world
from lope_dist.train import session
from lope_dist.train.premises import table

tree_file, out, zero_stage = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
engine = {"kind": "local"}
if zero_stage:
    engine = {"kind": "deepspeed", "zero_stage": zero_stage, "timeout_s": 60}
world = start_world(EngineConfig.model_validate(engine))
session.start_world = lambda config: world
leave, world.close = world.close, world.barrier
table.memory_sentence = lambda *_: None  # seconds for each cell, and no test here asks for it
losses: dict = {}
for name, micro_batches, recomputes in product(sys.argv[4:] or ALL, (1, 4), (False, True)):
    cell = f"{name}-{micro_batches}-{'recomputed' if recomputes else 'kept'}"
    if name == "prefix_tuning" and recomputes:  # refused by the configuration
        continue
    if not name.startswith("lope") and (recomputes == (micro_batches == 4)) == (zero_stage == 2):
        continue
    tree = yaml.safe_load(Path(tree_file).read_text())
    tree["output_dir"] = str(out.with_suffix("") / cell)
    tree["engine"], tree["adapter"] = engine, ALL[name]
    tree["model"]["gradient_checkpointing"] = recomputes
    tree["train"]["micro_batch"] = tree["train"]["global_batch"] // world.size // micro_batches
    tree["train"]["stages"] = {"only": stage_of(name) | {"max_steps": 5}}
    try:
        run = session.train(validate_config(tree, "cell"))
        losses[cell] = [line["loss"] for line in read_lines(run / "metrics.jsonl")]
    except Exception as error:  # told by the test, with all others
        traceback.print_exc()
        losses[cell] = repr(error)
        break  # the other ranks may be elsewhere
if os.environ.get("RANK", "0") == "0":
    out.write_text(json.dumps(losses))
leave()
