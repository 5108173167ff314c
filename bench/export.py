"""`lope export` of a trained run: size of each format, and how its reader answers with it.

A purified export is read by this project, `peft` by stock peft on the NF4 base of transformers
and bitsandbytes, `merged` by stock transformers. Each answers examples that the export's mean
weights were not made of, beside the routed model. The last line is one JSON object; its `ratios`:

    purified_kl             nats a token from the routed model                   target <= 0
    peft_kl_over_base       the same over the base model's
    merged_kl_over_base
    peft_kl_over_own        over what `lope export` says of it: does its reader answer alike
    merged_kl_over_own

Run: python bench/export.py RUN [--calibration FILE] [--rows 64]
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import command, finish
from peer import load_base
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from lope_dist.config.adapter import AdapterConfig
from lope_dist.config.model import ModelConfig
from lope_dist.corpus.feed.batches import MicroBatch
from lope_dist.corpus.tokens.encode import IGNORED
from lope_dist.evaluate.loaded.load import LoadedRun, load_run
from lope_dist.export.calibration import calibration_batches
from lope_dist.export.run import ExportRequest, export_run
from lope_dist.export.static import exported_answer
from lope_dist.model.source import model_folder

READERS = {"purified": "this project", "peft": "peft", "merged": "transformers"}
TARGETS = {"purified_kl": "<= 0"}


@torch.no_grad()
def answers(model: Any, batches: Sequence[MicroBatch]) -> tuple[Tensor, Tensor]:
    """Return a decoder's log-probabilities at the response tokens, and these tokens.

    Shapes: float32 (tokens, vocabulary), int64 (tokens,).
    """
    log_probabilities, tokens = [], []
    for batch in batches:
        labels = batch.labels[:, 1:]
        is_target = labels != IGNORED
        logits = model(**batch.inputs, use_cache=False).logits[:, :-1]
        log_probabilities.append(logits[is_target].float().log_softmax(-1))
        tokens.append(labels[is_target])
    return torch.cat(log_probabilities), torch.cat(tokens)


def beside(routed: Tensor, other: Tensor, tokens: Tensor) -> dict[str, float]:
    """Return KL (nats a token), the share of same choices, accuracy (%), and loss."""
    return {
        "kl": float(F.kl_div(other, routed, reduction="batchmean", log_target=True)),
        "same_token": 100 * float((other.argmax(-1) == routed.argmax(-1)).float().mean()),
        "accuracy": 100 * float((other.argmax(-1) == tokens).float().mean()),
        "loss": float(F.nll_loss(other, tokens)),
    }


def read(kind: str, folder: Path, config: ModelConfig) -> Any:
    """Return the model that an export's reader makes of it."""
    if kind == "purified":
        return load_run(folder).model
    if kind == "merged":
        return AutoModelForCausalLM.from_pretrained(folder).eval()
    dtype = getattr(torch, config.dtype)
    source = str(model_folder(config))
    if config.quantization == "nf4":
        base = load_base(source, dtype, config.double_quantization)
    else:
        base = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    return PeftModel.from_pretrained(base, str(folder)).eval()


def measure(
    run_dir: Path, calibration: str | None, num_rows: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Export in each format, read it back, and compare; return ratios and figures."""
    run = load_run(run_dir)
    _, batches = calibration_batches(run, calibration, num_rows)
    with exported_answer(run):
        routed, tokens = answers(run.model, batches)
    formats, ratios = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in READERS:
            own = calibration if kind != "purified" else None
            request = ExportRequest(kind, Path(folder, kind), own, num_rows)
            manifest = export_run(run_dir, request)
            size = sum(file["size"] for file in manifest["files"].values())
            found, _ = answers(read(kind, request.out, run.config.model), batches)
            facts = beside(routed, found, tokens)
            row = {"format": kind, "size_mb": size / 1e6, "loads_in": READERS[kind], **facts}
            formats.append(row)
            if manifest["comparison"] is None:
                ratios[f"{kind}_kl"] = facts["kl"]
            else:
                ratios[f"{kind}_kl_over_base"] = facts["kl"] / manifest["comparison"]["kl_base"]
                ratios[f"{kind}_kl_over_own"] = facts["kl"] / manifest["comparison"]["kl"]
    return ratios, _figures(run, formats, batches, routed, tokens)


def _figures(
    run: LoadedRun,
    formats: list[dict[str, Any]],
    batches: Sequence[MicroBatch],
    routed: Tensor,
    tokens: Tensor,
) -> dict[str, Any]:
    with run.context.answering("none"):
        base, _ = answers(run.model, batches)
    rows = [
        {"format": "the run", "size_mb": None, "loads_in": "", **beside(routed, routed, tokens)},
        *formats,
        {"format": "base model", "size_mb": None, "loads_in": "", **beside(routed, base, tokens)},
    ]
    adapter = run.config.adapter
    assert isinstance(adapter, AdapterConfig), "other kinds are not exported"
    return {
        "formats": {"rows": rows},
        "response_tokens": len(tokens),
        "examples": sum(len(batch.example_ids) for batch in batches),
        "run": {
            "model": run.config.model.name_or_path,
            "rank": adapter.rank,
            "num_normal": adapter.num_normal,
            "num_poison": adapter.num_poison,
            "adapter_sha256": run.checkpoint.adapter_sha256,
        },
    }


def main() -> None:
    """Print the figures."""
    parser = command(__doc__)
    parser.add_argument("run", type=Path, help="a trained run's folder")
    parser.add_argument(
        "--calibration", type=Path, help="examples; default: the run's training data"
    )
    parser.add_argument("--rows", type=int, default=64, help="to average over, and to compare on")
    arguments = parser.parse_args()
    calibration = arguments.calibration and str(arguments.calibration)
    ratios, figures = measure(arguments.run, calibration, arguments.rows)
    finish("export", ratios, TARGETS, figures, vars(arguments))


if __name__ == "__main__":
    main()
