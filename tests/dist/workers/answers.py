"""Answer with a base that is whole and with one that is sharded: `answers.py DATA OUT RUN...`.

Each rank writes OUT/RANK.json: run -> base -> what it answered, and the elements that it holds.
"""

import json
import sys
from pathlib import Path

from support.questions import all_answers

from lope_dist.engine import rows
from lope_dist.evaluate.loaded.load import load_run
from lope_dist.evaluate.loaded.placing import RankSettings, ranks

rows.ROWS_BYTES = 1  # several steps, even of a tiny vocabulary
data, out, *runs = sys.argv[1:]
with ranks(RankSettings("sharded", timeout_s=60)) as world:
    assert world is not None
    found: dict = {}
    for folder in runs:
        for base in ("whole", "sharded"):
            run = load_run(folder, world=world, base=base, progress=False)
            numels = [
                p.numel() + getattr(p, "ds_tensor", p.new_empty(0)).numel()
                for name, p in run.model.named_parameters()
                if ".lope." not in name
            ]
            answers = all_answers(run, data)
            held = sum(numels)
            found.setdefault(Path(folder).name, {})[base] = {"answers": answers, "held": held}
    Path(out, f"{world.rank}.json").write_text(json.dumps(found))
