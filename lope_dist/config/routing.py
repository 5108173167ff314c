"""What the options of routed gradients need of each other."""

from __future__ import annotations

from lope_dist.config.train import StageConfig

ROUTING_OPTIONS = ("detected_share", "strict_routing", "soft_routing", "poison_dropout")


def missing_for_routing(option: str, stage: StageConfig) -> str | None:
    """Return what one of these options of a stage lacks, and how to mend it."""
    if option == "detected_share" and stage.gradient_routing != "detected":
        return "has an effect with gradient_routing = detected alone; set it, or leave this out"
    if option == "strict_routing" and not stage.gradient_routing:
        return "is about routed gradients; set gradient_routing to true or detected"
    if option == "soft_routing" and not (
        stage.strict_routing and stage.gradient_routing == "detected"
    ):
        return (
            "is about the passes of detected marks; set gradient_routing=detected and "
            "strict_routing=true"
        )
    if option == "poison_dropout" and not stage.strict_routing:
        return "is about the passes of strict routing; set strict_routing=true"
    if option != "strict_routing":
        return None
    beside = {
        f"loss.kind = {stage.loss.kind}": stage.loss.kind == "truncated",
        "loss_on = corrupted": stage.loss_on == "corrupted",
    }
    if conflicts := [name for name, is_on in beside.items() if is_on]:
        return (
            f"takes the loss in two passes, and {conflicts[0]} asks for all targets in one; leave "
            "one of them out"
        )
    return None
