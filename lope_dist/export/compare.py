"""How far an export that cannot be exact is from the model that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lope_dist.corpus.batches import MicroBatch
from lope_dist.corpus.tokens import IGNORED
from lope_dist.evaluate.load import LoadedRun
from lope_dist.export.static import batch_context, select_experts, swapped


@torch.no_grad()
def compare(
    run: LoadedRun, replaced: Mapping[str, nn.Module], batches: Sequence[MicroBatch]
) -> dict[str, float]:
    """Compare routed model, export and base model on the target tokens of ``batches``.

    Returns:
        `kl`: nats a token of the routed model's predictions against the export's;
        `kl_base`: against the base model's; `agreement`: share of tokens whose likeliest
        continuation is the same; `accuracy_*` and `loss_*` of each model (share of tokens
        predicted right, nats a token); `tokens`.
    """
    totals: dict[str, float] = {}
    for batch in batches:
        select_experts(run)
        routed, targets = _predictions(run, batch)
        with swapped(run.model, replaced):
            exported, _ = _predictions(run, batch)
        run.context.experts = "none"
        base, _ = _predictions(run, batch)
        select_experts(run)
        found = {
            "kl": _kl(routed, exported),
            "kl_base": _kl(routed, base),
            "agreement": (routed.argmax(-1) == exported.argmax(-1)).sum(),
        }
        for name, logp in (("routed", routed), ("exported", exported), ("base", base)):
            found[f"accuracy_{name}"] = (logp.argmax(-1) == targets).sum()
            found[f"loss_{name}"] = F.nll_loss(logp, targets, reduction="sum")
        for name, value in found.items():
            totals[name] = totals.get(name, 0.0) + float(value)
        totals["tokens"] = totals.get("tokens", 0.0) + targets.numel()
    tokens = totals.pop("tokens")
    means = {name: value / max(1.0, tokens) for name, value in totals.items()}
    return means | {"tokens": tokens}


def _kl(routed: Tensor, other: Tensor) -> Tensor:
    return F.kl_div(other, routed, reduction="sum", log_target=True)


def _predictions(run: LoadedRun, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and labels of the target tokens.

    Shapes: float32 (targets, vocabulary), int64 (targets,).
    """
    batch = batch_context(run, batch)
    logits = run.model(**batch.inputs, use_cache=False).logits
    labels = batch.labels
    if not run.model.config.is_encoder_decoder:
        logits, labels = logits[:, :-1], labels[:, 1:]
    is_target = labels != IGNORED
    return logits[is_target].float().log_softmax(-1), labels[is_target]
