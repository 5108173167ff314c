"""Rotary positions that depend on the longest example of a forward pass.

LongRoPE has two sets of frequencies. transformers takes the second one for a whole forward pass as
soon as one example in it is longer than the model's first context. Dynamic frequencies grow with
the longest example so far, and stay. Either way a shorter example is not computed as it is alone.
"""

from __future__ import annotations

from transformers import PretrainedConfig

from lope_dist.config.schema import RunConfig

_ALONE = "longrope"
"""The kind that computes an example as ever where it is alone in its forward pass."""
_ANY = 1 << 62


def mixed_lengths(config: RunConfig, arch: PretrainedConfig) -> tuple[str, str] | None:
    """Return why one example may change the positions of another, and the remedy; None: none does.

    That is with such a `data.max_length`, beside other examples or with dynamic positions.
    """
    reason = why_lengths_mix(config, arch)
    may_be_alone = _rotation(arch)[0] == _ALONE
    is_alone = config.data.packing is not True and config.train.micro_batch == 1
    if reason is None or (may_be_alone and is_alone):
        return None
    alone = ", or data.packing=false and train.micro_batch=1" if may_be_alone else ""
    return reason, f"set data.max_length to no more than that{alone}"


def why_lengths_mix(config: RunConfig, arch: PretrainedConfig) -> str | None:
    """Return in words that a long example changes others; None: none does."""
    kind, limit = _rotation(arch)
    longest = limit - getattr(config.adapter, "num_virtual_tokens", 0)
    if config.data.max_length <= longest:
        return None
    return (
        f"data.max_length = {config.data.max_length} is more than the {longest} tokens beyond "
        f"which an example changes the positions of others in this {arch.model_type} model "
        f"(rope_type {kind})"
    )


def _rotation(arch: PretrainedConfig) -> tuple[str, int]:
    """Return the kind of the rotary positions, and up to how many tokens no example changes others.

    A model may have several kinds, one for each type of its layers; the first limit counts.
    """
    text = arch.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or {}
    limits = {"": _ANY}
    for each in (parameters, *(one for one in parameters.values() if isinstance(one, dict))):
        kind = str(each.get("rope_type"))
        if kind == _ALONE:
            limits[kind] = each["original_max_position_embeddings"]
        elif "dynamic" in kind:
            limits[kind] = text.max_position_embeddings
    return min(limits.items(), key=lambda item: item[1])
