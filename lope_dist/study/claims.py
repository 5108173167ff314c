"""A study's claims, judged by its runs."""

from __future__ import annotations

from typing import Any

from lope_dist.study.cells import Study, split_side
from lope_dist.study.compare import Effect, compare, too_few_seeds
from lope_dist.study.observe import Observations
from lope_dist.study.schema import ClaimConfig

_SIDES = ("better", "than")
_EQUAL_TOKENS = 0.02
"""Training on so many more tokens, as a share, is no other budget."""


def judge(observations: Observations) -> list[dict[str, Any]]:
    """Return each claim with `held`: true, false, or null where it is open.

    A claim is open where the interval includes 0, where there are too few seeds, and where a side
    was not run. `effect` is positive in the claim's direction, `runs` are the files that it comes
    from, and `notes` say what a reader has to know of the verdict.
    """
    return [
        {"name": name, **_judge(at, observations)}
        for name, claim in observations.study.config.claims.items()
        for at in _at_each_point(observations.study, claim)
    ]


def _at_each_point(study: Study, claim: ClaimConfig) -> list[ClaimConfig]:
    """Return the claim at each point of the axes where both sides are trained."""
    claims = []
    for at in study.points_of_claim(*(split_side(getattr(claim, key))[0] for key in _SIDES)):
        sides = {key: getattr(claim, key).replace("/", f"{at}/", 1) for key in _SIDES}
        text = claim.claim + (f" ({at[1:].replace(',', ', ')})" if at else "")
        claims.append(claim.model_copy(update={**sides, "claim": text}))
    return claims


def _judge(claim: ClaimConfig, observations: Observations) -> dict[str, Any]:
    verdict: dict[str, Any] = {**claim.model_dump(), "held": None, "effect": None, "ci95": None}
    verdict["notes"] = []
    better, than = (
        observations.series(*split_side(side), claim.metric) for side in (claim.better, claim.than)
    )
    effect = compare(better, than)
    sources = {seen.source for series in (better, than) for seen in series.values()}
    verdict["runs"] = sorted(sources)
    if effect is None:
        return verdict
    sign = 1 if claim.direction == "higher" else -1
    verdict["effect"] = sign * effect.mean
    verdict["per_seed"] = {str(seed): sign * value for seed, value in effect.per_seed.items()}
    verdict |= {"over": effect.over, "p_seeds": effect.p_seeds}
    verdict["notes"] = _notes(claim, effect, observations)
    if effect.ci95 is not None:
        low, high = sorted(sign * end for end in effect.ci95)
        verdict["ci95"] = [low, high]
        verdict["held"] = low > 0 if effect.is_clear else None
    return verdict


def _notes(claim: ClaimConfig, effect: Effect, observations: Observations) -> list[str]:
    notes = too_few_seeds(len(effect.per_seed))
    better, than = (
        observations.tokens(split_side(side)[0], list(effect.per_seed))
        for side in (claim.better, claim.than)
    )
    if better and than and abs(better / than - 1) > _EQUAL_TOKENS:
        notes.append(f"trained on {better / than:.2f} times as many tokens")
    return notes
