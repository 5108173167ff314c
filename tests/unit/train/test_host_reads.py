"""What a micro-batch of training reads on the host, where a GPU would have to be waited for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.one_device import META, OneDevice, loaded_on_meta
from support.tiny import small_llama
from transformers import MistralConfig, MistralForCausalLM, T5Config, T5ForConditionalGeneration

from lope_dist.adapters.context import StageDescription
from lope_dist.adapters.inject import set_trainable
from lope_dist.adapters.lope import model_roles
from lope_dist.config.loss import CrossEntropyConfig
from lope_dist.config.noise import EmbeddingNoiseConfig
from lope_dist.config.train import OptimizerConfig, default_stages
from lope_dist.corpus.feed.batches import MicroBatch, build_batch
from lope_dist.corpus.tokens.encode import Tokenized
from lope_dist.engine.groups import build_groups
from lope_dist.engine.local import LocalEngine
from lope_dist.engine.world import World
from lope_dist.model.loss_head import loss_head
from lope_dist.model.mask_reads import needs_masks, without_reading
from lope_dist.train.stage.loop import _micro_step
from lope_dist.train.stage.robust_loss import StageLoss
from lope_dist.train.stage.routing import Routing
from lope_dist.train.stage.stage_objective import StageObjective
from lope_dist.train.stage.step_plan import StepPlan

PADDED = [[5], [9], [7]]
ROWS = {
    "packed": ([[5, 7], [4, 8, 2]], True, 0),
    "packed, one example a row": ([[12], [9]], True, 0),  # the rest of the second row is padding
    "padded": (PADDED, False, 0),
    # transformers asks whether anything is padding, or packed, to leave the mask out
    "nothing to pad": ([[9], [9]], False, 1),
    "packed rows of one example that fills them": ([[9], [9]], True, 1),
}


def batch_of(rows: list[list[int]], is_packed: bool) -> MicroBatch:
    def tokens(number: int, length: int) -> Tokenized:
        ids, marks = list(range(3, 3 + length)), [True] * length
        return Tokenized(number, ids, ids, was_cut=False, corrupted=(marks, marks))

    made = [[tokens(i, n) for i, n in enumerate(row)] for row in rows]
    return build_batch(made, is_packed=is_packed, pad_id=0, seed=0, epoch=0)


def micro_step(batch: MicroBatch, attention: str) -> OneDevice:
    """Run one micro-batch of the first stage, with all that the stage adds to a forward pass."""
    model = loaded_on_meta().train()
    model.set_attn_implementation(attention)
    stage = default_stages(3, 1)["poison"]
    set_trainable(model, stage.trainable)
    noise = EmbeddingNoiseConfig()
    model.lope_context.begin_stage(StageDescription(noise, collects_usage=True))
    groups = build_groups(model, model_roles(model), stage)
    loss = StageLoss(CrossEntropyConfig(), shift=True)
    routing = Routing(stage, "poison", 0, None)
    objective = StageObjective(True, loss_head(model), loss, routing)
    plan = StepPlan([batch], batch.num_target_tokens, 1.0, batch.num_tokens, 1, None)  # type: ignore
    session: Any = SimpleNamespace(context=model.lope_context, world=World(0, 1, META))
    with OneDevice() as seen:
        for one in routing.passes(batch, None, 0):
            engine = LocalEngine(model, groups, OptimizerConfig())
            parts: Any = SimpleNamespace(engine=engine, objective=objective)
            _micro_step(session, parts, batch, plan, True, one, None)
    assert any(p.grad is not None for p in model.parameters())
    return seen


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ROWS)
def test_a_micro_batch_waits_only_where_a_mask_may_be_left_out(name: str, attention: str) -> None:
    rows, is_packed, reads = ROWS[name]
    seen = micro_step(batch_of(rows, is_packed), attention).reads
    assert seen.total() <= reads, seen
    if attention == "sdpa":  # the list of what is read holds nothing that is not
        assert seen.total() == reads, seen


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("shape", [{}, {"sliding_window": 4, "model_type": "mistral"}], ids=str)
@pytest.mark.parametrize("name", ROWS)
def test_masks_that_are_made_unread_are_the_same(
    name: str, attention: str, shape: dict[str, Any]
) -> None:
    rows, is_packed, reads = ROWS[name]
    inputs = batch_of(rows, is_packed).inputs
    assert needs_masks(inputs) == (reads == 0)
    model = small_llama() if not shape else small_mistral(shape["sliding_window"])
    model.set_attn_implementation(attention)
    expected = model(**inputs, use_cache=False).logits
    with without_reading(needs_masks(inputs)):
        assert torch.equal(model(**inputs, use_cache=False).logits, expected)


@pytest.mark.parametrize("lengths", [[(5, 3), (9, 4)], [(5, 4), (9, 4)]], ids=["both", "one"])
def test_an_encoder_decoders_masks_are_the_same(lengths: list[tuple[int, int]]) -> None:
    """They are made unread only where both streams have padding."""
    pairs = [
        Tokenized(i, [*range(3, 3 + n)], [*range(3, 3 + m)], was_cut=False, corrupted=None)
        for i, (n, m) in enumerate(lengths)
    ]
    rows = [[pair] for pair in pairs]
    options = {"pad_id": 0, "decoder_start_token_id": 0, "seed": 0, "epoch": 0}
    inputs = build_batch(rows, is_packed=False, **options).inputs
    has_padding_in_both = lengths[0][1] != lengths[1][1]
    assert needs_masks(inputs) == has_padding_in_both
    torch.manual_seed(0)
    shape = T5Config(vocab_size=80, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4)
    model = T5ForConditionalGeneration(shape).eval()
    expected = model(**inputs, use_cache=False).logits
    with without_reading(needs_masks(inputs)):
        assert torch.equal(model(**inputs, use_cache=False).logits, expected)


def small_mistral(window: int) -> Any:
    torch.manual_seed(0)
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=80,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=window,
        )
    ).eval()


def test_what_transformers_asks_is_as_before_afterwards() -> None:
    from transformers import masking_utils

    before = masking_utils.is_tracing
    assert not before()
    with pytest.raises(ZeroDivisionError), without_reading(True):
        _ = 1 / (not masking_utils.is_tracing())
    assert masking_utils.is_tracing is before
