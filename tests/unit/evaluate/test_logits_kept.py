"""Logits that nobody reads are not computed, and the answers stay the same."""

from __future__ import annotations

import pytest
import torch
from lm_eval.api.instance import Instance
from support.questions import PAIRS
from support.tiny import small_llama
from transformers import LlamaForCausalLM

from lope_dist.evaluate.harness.lm import LopeLM
from lope_dist.evaluate.harness.logits_kept import first_needed, trims_logits


@pytest.mark.parametrize(
    ("lengths", "max_length", "expected"),
    [
        ([(7, 2)], 100, 6),  # reads 8 tokens: positions 6 and 7 tell the answer's two
        ([(7, 2), (3, 1)], 100, 2),
        ([(1, 5)], 100, 0),
        ([(50, 2)], 10, 8),  # cut on the left
        ([(5, 30)], 10, 0),  # an answer longer than the window
    ],
)
def test_the_first_position_that_a_request_asks_about(lengths, max_length, expected) -> None:
    requests = [(None, [1] * context, [2] * answer) for context, answer in lengths]
    assert first_needed(requests, max_length) == expected


def answers(lm: LopeLM) -> tuple[list, list[int], list[bool]]:
    """Return answers, tokens that each pass gave logits of, and whether it kept a cache."""
    widths, caches = [], []

    def note(model: object, args: object, output: object) -> None:
        widths.append(output.logits.shape[1])  # type: ignore[attr-defined]
        caches.append(output.past_key_values is not None)  # type: ignore[attr-defined]

    handle = lm.model.register_forward_hook(note)
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(PAIRS)]
    try:
        return lm.loglikelihood(requests, disable_tqdm=True), widths, caches
    finally:
        handle.remove()


@pytest.mark.parametrize("size", [2, "auto"])
def test_answers_are_those_of_all_logits(loaded, size) -> None:
    lm = LopeLM(loaded, "masked", batch_size=size)
    trimmed, fewer, caches = answers(lm)
    assert lm._can_trim
    lm._can_trim = False
    whole, all_widths, _ = answers(lm)
    assert sum(fewer) < sum(all_widths) * (0.7 if size == 2 else 1.01)
    assert not any(caches)
    for one, other in zip(trimmed, whole, strict=True):
        assert one == (pytest.approx(other[0], abs=1e-4), other[1])


class _Careless(LlamaForCausalLM):
    """Takes the first logits for the last."""

    def forward(self, *args, logits_to_keep=0, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits[:, : logits_to_keep or None]
        return output


@pytest.mark.parametrize(("kind", "trims"), [(LlamaForCausalLM, True), (_Careless, False)])
def test_a_model_that_gives_others_than_the_last_is_found_out(kind, trims) -> None:
    model = kind(small_llama().config).eval()

    def logits_of(**options):
        with torch.no_grad():
            return model(torch.arange(10).view(1, 10), **options).logits

    assert trims_logits(model, logits_of, logits_of()) is trims
