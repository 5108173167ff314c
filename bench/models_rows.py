"""What becomes of some of `architectures.py`: a JSON line for each, started by `models.py`.

Run: python bench/models_rows.py WORKDIR ROWS.jsonl NAME...
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from architectures import ARCHITECTURES
from architectures.shapes import Architecture
from architectures.write import write_model
from peft import PeftModel

from lope_dist.config.load import load_config, validate_config
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_lines
from lope_dist.export.run import ExportRequest, export_run
from lope_dist.model.build import load_model
from lope_dist.model.placement import Replicated
from lope_dist.model.quantization import quantization_of
from lope_dist.train.premises.preflight import preflight
from lope_dist.train.session import train

ROOT = Path(__file__).resolve().parent.parent
CLOSE = 1e-5
"""Losses in float32 that differ by less are equal."""
EXPORTED_CLOSE = 2e-4
"""Logits of a LoRA beside the base and of one inside its weights, which are rounded once."""
_LIMIT_S = 240
_CPU = torch.device("cpu")


def row(name: str, folder: Path) -> dict[str, Any]:
    """Return the row of one architecture; ``folder`` is an empty one for its files."""
    case = ARCHITECTURES[name]
    found: dict[str, Any] = {"name": name, "class": case.auto, "loads": False, "check": "ok"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_model(name, folder / "model")
    _write_rows(folder / "rows.jsonl")
    nf4, whole = _config(folder, "nf4"), _config(folder, "none")
    try:
        plan = preflight(nf4)
    except LopeError as error:
        return found | {"check": str(error)}
    found["nf4_share"] = round(quantization_of(plan.model, plan.config.model).share, 4)
    found["logits_equal"] = _has_stock_logits(whole, case)
    found["loads"] = True
    train(nf4)
    if not case.is_pair:
        is_packed = load_config(folder / "nf4" / "run.yaml").data.packing
        found["packing"] = "exact" if is_packed else "off"
    losses = [line["loss"] for line in read_lines(folder / "nf4" / "metrics.jsonl")]
    found["step0_loss_equal"] = abs(losses[0] - _first_loss(folder)) <= CLOSE
    found["trains"] = len(losses) == 4 and losses[-1] < losses[0]
    if case.zero3:
        sharded = _zero3_losses(folder)
        gaps = [abs(a - b) for a, b in zip(losses, sharded, strict=True)]
        found["zero3_equal"] = max(gaps) <= CLOSE
        found["trains"] &= found["zero3_equal"]
    train(whole)
    found |= _exports(whole, case)
    return found


def _config(folder: Path, quantization: str, **changes: Any) -> RunConfig:
    return validate_config(_tree(folder, quantization, **changes), f"{folder.name}.yaml")


def _tree(folder: Path, quantization: str, **changes: Any) -> dict[str, Any]:
    stage = {"lr": 0.01, "max_steps": 2, "warmup_ratio": 0.0}
    name = "-".join([quantization, *map(str, changes.values())])
    return {
        "output_dir": str(folder / name),
        "model": {
            "name_or_path": str(folder / "model"),
            "dtype": "float32",
            "quantization": quantization,
        },
        "adapter": {"rank": 4, "dropout": 0.0},
        "data": {"path": str(folder / "rows.jsonl"), "max_length": 512, **changes},
        "train": {
            "global_batch": 4,
            "micro_batch": 2,
            "stages": {
                "poison": stage | {"noise": "hybrid", "trainable": ["shared_a", "poison_b"]},
                "finetune": stage | {"trainable": ["shared_a", "normal_b", "router"]},
            },
        },
        "engine": {"kind": "local"},
    }


def _write_rows(path: Path) -> None:
    rows = [
        {"prompt": f"Count the {'red and blue ' * (i % 3)}birds: {i}.", "completion": "Bird. " * i}
        for i in range(1, 9)
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


def _has_stock_logits(config: RunConfig, case: Architecture) -> bool:
    """Return whether the loaded model answers as transformers' own, to the last bit."""
    ours = load_model(config.model, Replicated(_CPU), progress=False)
    attention = ours.config._attn_implementation
    stock = _stock(Path(config.model.name_or_path), case, attn_implementation=attention)
    return torch.equal(_logits(ours, case), _logits(stock, case))


def _stock(folder: Path, case: Architecture, **settings: Any) -> Any:
    auto = getattr(transformers, case.auto)
    return auto.from_pretrained(folder, dtype=torch.float32, **settings).eval()


@torch.no_grad()
def _logits(model: Any, case: Architecture) -> torch.Tensor:
    ids = (torch.arange(48) * 7 % 250 + 3).view(2, 24)
    inputs = {"decoder_input_ids": ids} if case.is_pair else {}
    return model(input_ids=ids, **inputs, use_cache=False).logits


def _first_loss(folder: Path) -> float:
    """Return the first loss of a run whose rows are not packed, one row a micro-batch."""
    config = _config(folder, "nf4", packing=False)
    one_row = config.train.model_copy(update={"micro_batch": 1})
    train(config.model_copy(update={"train": one_row}))
    return next(read_lines(Path(config.output_dir) / "metrics.jsonl"))["loss"]


def _zero3_losses(folder: Path) -> list[float]:
    """Return the losses of the same run on two ZeRO-3 ranks."""
    tree = _tree(folder, "nf4")
    tree |= {
        "output_dir": str(folder / "zero3"),
        "engine": {"kind": "deepspeed", "zero_stage": 3, "timeout_s": 60},
    }
    recipe = folder / "zero3.yaml"
    recipe.write_text(yaml.safe_dump(tree, sort_keys=False))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ended = subprocess.run(
        [sys.executable, *launcher, str(ROOT / "launch/train.py"), "--config", str(recipe)],
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(f"two ZeRO-3 ranks ended with {ended.returncode}: {ended.stderr[-800:]}")
    return [line["loss"] for line in read_lines(folder / "zero3" / "metrics.jsonl")]


def _exports(config: RunConfig, case: Architecture) -> dict[str, Any]:
    """Return whether stock libraries read both exports, alike and unlike the base."""
    run = Path(config.output_dir)
    for kind in ("peft", "merged"):
        export_run(run, ExportRequest(kind, run / kind, calibration_rows=2))
    base = _stock(Path(config.model.name_or_path), case)
    plain = _logits(base, case)
    beside = _logits(PeftModel.from_pretrained(base, run / "peft"), case)
    inside = _logits(_stock(run / "merged", case), case)
    gap, effect = (float((beside - other).abs().max()) for other in (inside, plain))
    return {"exports": gap <= EXPORTED_CLOSE < effect, "export_gap": gap}


def main() -> None:
    """Write the rows."""
    workdir, out, *names = sys.argv[1:]
    transformers.utils.logging.set_verbosity_error()
    for name in names:
        folder, start = Path(workdir, name), time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        found: dict[str, Any]
        try:
            found = row(name, folder)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            found = {"name": name, "loads": False, "failed": reason}
        found["seconds"] = round(time.monotonic() - start, 1)
        with Path(out).open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(json.dumps(found), flush=True)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
