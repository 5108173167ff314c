"""Tiny random models of the architectures that people fine-tune, for `bench/models.py`.

Each is of two layers or so with hidden size 64, and has what its family differs by: grouped
queries, windows, experts, state spaces, fused projections, tied heads. The vocabulary is that of
a tokenizer of bytes. A model is written with `save_pretrained`, so its file has the layout that
transformers gives it, which for most experts is one tensor an expert.
"""

from __future__ import annotations

from architectures import dense, experts, pairs, pictures, recurrent
from architectures.shapes import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    **dense.MODELS,
    **experts.MODELS,
    **recurrent.MODELS,
    **pairs.MODELS,
    **pictures.MODELS,
}
