"""How far an export, as its readers read it, is from the run; and whether they read it right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lope_dist.core.logits import chunk_rows
from lope_dist.corpus.feed.batches import MicroBatch
from lope_dist.corpus.tokens.encode import IGNORED
from lope_dist.evaluate.loaded.load import LoadedRun
from lope_dist.export.static import batch_context, exported_answer, swapped

ROUNDING = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Distance up to which two models of a dtype are the same but for the order of their sums."""


@torch.no_grad()
def compare(
    run: LoadedRun,
    stock: nn.Module,
    replaced: Mapping[str, nn.Module],
    batches: Sequence[MicroBatch],
) -> dict[str, float]:
    """Compare routed model, export and base model on the target tokens of ``batches``.

    Args:
        run: The routed model.
        stock: The export, read from disk by a stock library.
        replaced: Layers that make the run's model what the export should be.
        batches: On what.

    Returns:
        `kl`: nats a token of the routed model's predictions against the export's;
        `kl_base`: against the base model's; `agreement`: share of tokens whose likeliest
        continuation is the same; `accuracy_*` and `loss_*` of each model (share of tokens
        predicted right, nats a token); `tokens`.
        `distance`: of the export's log-probabilities from the routed model's, the root of their
        mean square over that of the routed model's around each token's mean; `distance_read`:
        the same from what this project computes with the exported matrices.
    """
    totals: dict[str, float] = {}
    for batch in batches:
        batch = batch_context(run, batch)
        with exported_answer(run):
            routed, targets = _predictions(run.model, batch)
            with swapped(run.model, replaced):
                ours, _ = _predictions(run.model, batch)
        with run.context.answering("none"):
            base, _ = _predictions(run.model, batch)
        exported, _ = _predictions(stock, batch)
        rows = chunk_rows(routed.shape[-1])
        parts = (x.split(rows) for x in (routed, ours, base, exported, targets))
        for some_tokens in zip(*parts, strict=True):
            for name, value in _sums(*some_tokens).items():
                totals[name] = totals.get(name, 0.0) + float(value)
        totals["tokens"] = totals.get("tokens", 0.0) + targets.numel()
    tokens, spread = totals.pop("tokens"), totals.pop("spread")
    distances = {
        name: (totals.pop(name) / spread) ** 0.5 if spread else 0.0
        for name in ("distance", "distance_read")
    }
    means = {name: value / max(1.0, tokens) for name, value in totals.items()}
    return means | distances | {"tokens": tokens}


def _sums(
    routed_PV: Tensor, ours_PV: Tensor, base_PV: Tensor, exported_PV: Tensor, targets_P: Tensor
) -> dict[str, Tensor]:
    """Return sums over some tokens, of the logits of each model."""
    logits = (routed_PV, ours_PV, base_PV, exported_PV)
    routed, ours, base, exported = (logits_PV.float().log_softmax(-1) for logits_PV in logits)
    sums = {
        "kl": _kl(routed, exported),
        "kl_base": _kl(routed, base),
        "agreement": (routed.argmax(-1) == exported.argmax(-1)).sum(),
        "distance": (exported - routed).square().sum(),
        "distance_read": (exported - ours).square().sum(),
        "spread": (routed - routed.mean(-1, keepdim=True)).square().sum(),
    }
    for name, logp in (("routed", routed), ("exported", exported), ("base", base)):
        sums[f"accuracy_{name}"] = (logp.argmax(-1) == targets_P).sum()
        sums[f"loss_{name}"] = F.nll_loss(logp, targets_P, reduction="sum")
    return sums


def _kl(routed: Tensor, other: Tensor) -> Tensor:
    return F.kl_div(other, routed, reduction="sum", log_target=True)


def _predictions(model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Return logits and labels of the target tokens.

    Shapes: (targets, vocabulary) in the model's dtype, int64 (targets,).
    """
    here = next(p.device for p in model.parameters() if not p.is_meta)
    inputs = {name: tensor.to(here) for name, tensor in batch.inputs.items()}
    logits, labels = model(**inputs, use_cache=False).logits, batch.labels
    if "decoder_input_ids" not in inputs:
        logits, labels = logits[:, :-1], labels[:, 1:]
    is_target = labels != IGNORED
    return logits[is_target.to(logits.device)].to(labels.device), labels[is_target]
