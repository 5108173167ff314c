"""The one recommendation that the claims of a comparison bear out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lope_dist.study.compare import SEEDS_FOR_A_VERDICT
from lope_dist.study.methods import METHODS

_BASELINES = ("lora", "hydralora")


def recommend(claims: Sequence[dict[str, Any]], num_seeds: int) -> dict[str, Any]:
    """Return `method` (a method, `base`, or `open`) and a sentence with how sure that is.

    LoPE is recommended if its loss is lower than that of both others, and one of the others if it
    is lower than LoPE's. Whatever is recommended has a lower loss than the base model.

    Args:
        claims: Those of the study, as `judge` returns them.
        num_seeds: Seeds with which all methods were trained.
    """
    by_name = {claim["name"]: claim for claim in claims}
    against = [by_name[f"lope_over_{baseline}"] for baseline in _BASELINES]
    seen = "; ".join(
        _effect("LoPE", METHODS[b], c) for b, c in zip(_BASELINES, against, strict=True)
    )
    over_base = {method: by_name[f"{method}_over_base"] for method in METHODS}
    seeds = f"{num_seeds} seed{'s' * (num_seeds > 1)}"
    if num_seeds < SEEDS_FOR_A_VERDICT:
        needed = f"{seeds}, and a verdict needs {SEEDS_FOR_A_VERDICT}"
        return _advice("open", f"Open: {needed}; more --minutes add seeds. So far: {seen}.")
    if all(claim["held"] is False for claim in over_base.values()):
        worse = "; ".join(_effect(METHODS[m], "the base model", c) for m, c in over_base.items())
        return _advice("base", f"Use the base model: each method has a higher loss ({worse}).")
    if all(claim["held"] for claim in against):
        best = "lope"
    else:
        ahead = [b for b, claim in zip(_BASELINES, against, strict=True) if claim["held"] is False]
        if not ahead:
            return _advice("open", f"Open: no method is clearly ahead with {seeds} ({seen}).")
        best = max(ahead, key=lambda baseline: over_base[baseline]["effect"])
    if over_base[best]["held"] is not True:
        doubt = _effect(METHODS[best], "the base model", over_base[best])
        return _advice("open", f"Open: {METHODS[best]} is ahead ({seen}), but {doubt}.")
    how = "LoPE, with the poisoning expert masked" if best == "lope" else METHODS[best]
    return _advice(best, f"Use {how} ({seen}; {seeds}).")


def _advice(method: str, sentence: str) -> dict[str, Any]:
    return {"method": method, "sentence": sentence}


def _effect(better: str, than: str, claim: dict[str, Any]) -> str:
    """Return by how much one loss is below another, with the interval."""
    effect = claim["effect"]
    direction = "lower" if effect >= 0 else "higher"
    text = f"the loss of {better} is {abs(effect):.3f} nats a token {direction} than that of {than}"
    if claim["ci95"] is None:
        return text
    low, high = sorted(claim["ci95"] if effect >= 0 else [-end for end in claim["ci95"]])
    return f"{text}, 95 % interval [{low:.3f}, {high:.3f}]"
