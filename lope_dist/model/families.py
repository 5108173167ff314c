"""What differs between model families: default targets, streams, layers kept unquantized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lope_dist.core.errors import LopeError
from lope_dist.core.registry import Registry

FAMILIES: Registry[Family] = Registry("model family")


@dataclass(frozen=True)
class Family:
    """One `model_type` of transformers, or several that are alike."""

    targets: tuple[str, ...]
    """The paper's targets: query and value projections."""
    is_encoder_decoder: bool = False
    keep: tuple[str, ...] = ()
    """Linear layers that are never quantized in this family."""
    stream_of: Callable[[str], str] = lambda name: "decoder"
    """Module name -> the token stream that the layer reads, `encoder` or `decoder`."""


def _t5_stream(name: str) -> str:
    """Cross-attention's keys and values read the encoder's output, its queries the decoder."""
    if ".EncDecAttention.k" in name or ".EncDecAttention.v" in name:
        return "encoder"
    return "encoder" if name.startswith("encoder.") else "decoder"


_llama = Family(targets=("q_proj", "v_proj"))
for _name in ("llama", "mistral", "qwen2", "qwen3"):
    FAMILIES.register(_name)(_llama)
FAMILIES.register("t5")(
    Family(targets=("q", "v"), is_encoder_decoder=True, keep=("wo",), stream_of=_t5_stream)
)


def family_of(model_type: str, targets: tuple[str, ...], is_encoder_decoder: bool) -> Family:
    """Return the family of a `model_type`.

    A decoder-only model of an unknown type works once the targets are named.

    Raises:
        LopeError: unknown type and no `adapter.targets`, or an unknown encoder-decoder.
    """
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    if is_encoder_decoder or not targets:
        raise LopeError(
            f"Model type '{model_type}' is none of the known families ({', '.join(FAMILIES)}); "
            "decoder-only models of other types work once adapter.targets names their layers."
        )
    return Family(targets=targets)
