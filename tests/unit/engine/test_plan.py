"""The planner's arithmetic on LLaMA2's shapes, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lope_dist.engine.activations import Activations, Curve
from lope_dist.engine.advice import USABLE, advise
from lope_dist.engine.plan import accumulation, gathered_bytes, plan_rank
from lope_dist.engine.sizes import Settings, Sizes, statistics_bytes
from lope_dist.engine.speed import Hardware, speed

GiB = 1 << 30


def llama_activations(hidden: int, inner: int, layers: int, heads: int) -> Activations:
    """What a Llama's layer keeps of a token in bfloat16, with `sdpa`, by hand.

    Two norms keep their input and a scale in float32; attention keeps queries, keys, values and
    its output, all as wide as the queries, a float32 log-sum a head and its mask's row; the MLP
    gate, activated gate and up; two adapters one input, `h = A x` twice in float32, the router's
    weights and `z`.
    """
    norm = 4 * hidden + 4
    own = 2 * hidden + 2 * (2 * 16 + 4 * (2 * 4 + 4))
    layer = Curve(linear=2 * norm + 8 * hidden + 4 * heads + 6 * inner + own, quadratic=2)
    return Activations(
        outside=Curve(linear=norm),
        inputs=Curve(linear=2 * hidden * layers),
        layers=(layer,) * layers,
        widest=inner,
    )


def llama(hidden: int, inner: int, layers: int, heads: int, kv_width: int) -> Sizes:
    """LLaMA2 with the paper's adapter on q_proj and v_proj."""
    square, narrow, mlp = hidden * hidden, hidden * kv_width, hidden * inner
    layer = (square, narrow, narrow, square, mlp, mlp, mlp)
    own = 4 * (2 * hidden + 4 * (hidden + kv_width)) + 2 * 16
    return Sizes(
        quantized=layer * layers,
        plain=(32000 * hidden, *[hidden] * (2 * layers + 1), 32000 * hidden),
        itemsize=2,
        nested=True,
        input_only=32000 * hidden,
        active=layers * sum(layer) + 32000 * hidden,
        active_in_layers=layers * sum(layer),
        in_layers=layers * (sum(layer) // 2 + 4 * hidden),
        adapter=layers * own,
        trainable=layers * (own - 4 * (hidden + kv_width)),
        largest_adapter=4 * hidden,
        vocabulary=32000,
        activations=llama_activations(hidden, inner, layers, heads),
    )


L7 = llama(4096, 11008, 32, 32, 4096)
L13 = llama(5120, 13824, 40, 40, 5120)
L70 = llama(8192, 28672, 80, 64, 1024)
RUN = Settings(
    world_size=8,
    ranks_per_node=8,
    global_batch=32,
    micro_batch=4,
    max_length=1024,
    checkpointing=True,
    prefetch_numel=50_000_000,
    bucket_numel=5_000_000,
    load_buffer=256 << 20,
    shard="world",
)


def test_the_quantized_7b_base() -> None:
    embeddings = 2 * 32000 * 4096 * 2  # input and head, 0.26 GB each
    norms = 65 * 4096 * 2
    assert L7.base_bytes == 6_476_005_376 // 2 + embeddings + norms
    assert L7.base_bytes == pytest.approx(3.24e9 + 2 * 0.262e9, rel=0.01)
    assert L7.statistics == 6_476_005_376 // 64 + 6_476_005_376 // 16384 * 4


def test_statistics_round_up_and_cost_four_times_as_much_unnested() -> None:
    assert statistics_bytes(64, nested=True) == 1 + 4
    assert statistics_bytes(64 * 257, nested=True) == 257 + 2 * 4
    assert statistics_bytes(64 * 257, nested=False) == 257 * 4
    assert 8 * L7.statistics / sum(L7.quantized) == pytest.approx(0.127, abs=0.001)


def test_a_rank_holds_a_share_under_zero_3_and_all_under_zero_2() -> None:
    replicated, sharded = (plan_rank(L7, RUN, stage, 4) for stage in (2, 3))
    assert replicated.base_weights == L7.base_bytes
    resident_norms = 65 * 4096 * 2
    assert sharded.base_weights == L7.base_bytes // 8 + resident_norms
    assert replicated.statistics == L7.statistics
    whole = L7.nested_statistics
    assert whole == 6_476_005_376 // 16384 * 4
    assert sharded.statistics == whole + -(-(L7.statistics - whole) // 8)
    assert replicated.adapters == 4 * L7.adapter
    assert sharded.optimizer == 3 * 4 * L7.trainable // 8
    assert replicated.gathered == replicated.wire_base == 0
    assert sharded.load_peak == sharded.base_weights + sharded.statistics + (256 << 20)


@pytest.mark.parametrize("sizes", [L7, L70], ids=["7b", "70b"])
def test_more_ranks_never_take_more_of_each(sizes: Sizes) -> None:
    plans = [plan_rank(sizes, replace(RUN, world_size=n), 3, 1) for n in (2, 4, 8, 16, 64)]
    for key in ("base_weights", "statistics", "optimizer", "total", "load_peak"):
        values = [getattr(plan, key) for plan in plans]
        assert values == sorted(values, reverse=True)
        assert values[0] > values[-1]
    totals = [plan_rank(sizes, replace(RUN, world_size=n), 2, 1) for n in (2, 64)]
    assert totals[0].base_weights == totals[1].base_weights


def test_gathered_weights_are_bounded_by_prefetch_and_by_the_model() -> None:
    head = 32000 * 4096
    assert gathered_bytes(L7, 50_000_000) == 2 * (50_000_000 + head)
    partitioned = L7.base_bytes - 65 * 4096 * 2
    assert gathered_bytes(L7, 1 << 60) == partitioned
    assert plan_rank(L7, replace(RUN, world_size=1), 3, 1).gathered == 0


def test_the_base_travels_once_a_pass_and_again_to_recompute() -> None:
    one = replace(RUN, global_batch=8, checkpointing=False)  # a single micro-batch
    whole = L7.base_bytes - 65 * 4096 * 2 + L7.statistics
    embedding = 2 * 32000 * 4096
    assert plan_rank(L7, one, 3, 1).wire_base == (2 * whole - embedding) * 7 // 8
    again = plan_rank(L7, replace(one, checkpointing=True), 3, 1)
    assert again.wire_base > plan_rank(L7, one, 3, 1).wire_base
    assert plan_rank(L7, RUN, 3, 1).wire_base == 4 * again.wire_base
    assert plan_rank(L7, one, 2, 1).wire_adapters == 4 * 3 * L7.trainable * 7 // 8


def test_checkpointing_keeps_layer_inputs_and_one_layer() -> None:
    plan = plan_rank(L7, RUN, 3, 4)
    tokens = 4 * 1024
    inputs = tokens * 32 * 4096 * 2
    last_norm = tokens * 4 * 4097
    layer = (plan.activations_whole - last_norm) // 32
    assert plan.activations == plan.activations_checkpointed == inputs + layer + last_norm
    # the figure that the base configuration gives for four rows of 1,024 tokens
    assert plan.activations_whole == pytest.approx(18e9, rel=0.1)


def _advice(sizes: Sizes, device: int, world_size: int = 8, **changes):
    run = replace(RUN, world_size=world_size, **changes)
    return advise(sizes, run, device=device, node=None, one_row=False, hardware=Hardware()), run


@pytest.mark.parametrize("sizes", [L7, L13], ids=["7b", "13b"])
def test_small_models_on_large_cards_are_replicated(sizes: Sizes) -> None:
    advice, _ = _advice(sizes, 80 * GiB)
    assert advice.zero_stage == 2
    assert advice.micro_batch * advice.accumulation_steps == 4


@pytest.mark.parametrize("device", [24 * GiB, 80 * GiB])
def test_70b_is_sharded(device: int) -> None:
    advice, run = _advice(L70, device)
    assert advice.zero_stage == 3
    run = replace(run, checkpointing=advice.gradient_checkpointing)
    assert plan_rank(L70, run, 3, advice.micro_batch).total <= USABLE * device
    assert advice.micro_batch * advice.accumulation_steps >= 4
    expected = "Only a sharded base fits" if device == 24 * GiB else "pays for its gathers"
    assert expected in advice.why


def test_a_small_card_shards_7b() -> None:
    assert _advice(L7, 8 * GiB)[0].zero_stage == 3


def test_one_rank_has_nobody_to_share_with() -> None:
    advice, _ = _advice(L70, 80 * GiB, world_size=1)
    assert advice.zero_stage == 2


def test_what_fits_nowhere_says_so_and_what_would_help() -> None:
    advice, _ = _advice(L70, 12 * GiB, world_size=2, checkpointing=False)
    assert advice.zero_stage is None
    helps = "; ".join(advice.helps)
    assert "data.max_length=512" in helps
    assert "devices of" in helps
    ranks = [h for h in _advice(L70, 12 * GiB, world_size=2)[0].helps if "ranks under" in h]
    assert len(ranks) == 1
    enough = int(ranks[0].split()[0])
    assert plan_rank(L70, replace(RUN, world_size=enough), 3, 1).total <= USABLE * 12 * GiB
    assert plan_rank(L70, replace(RUN, world_size=enough // 2), 3, 1).total > USABLE * 12 * GiB


def test_micro_batches_are_even_and_cover_the_global_batch() -> None:
    run = replace(RUN, world_size=3, global_batch=32)  # 11 rows a rank
    fixed = plan_rank(L7, run, 3, 8).total / USABLE + 1  # room for eight rows
    advice = advise(L7, run, device=int(fixed), node=None, one_row=False, hardware=Hardware())
    assert (advice.micro_batch, advice.accumulation_steps) == (6, 2)
    assert accumulation(run, advice.micro_batch) == 2


def test_flash_attention_with_packing_takes_one_row() -> None:
    advice = advise(L7, RUN, device=80 * GiB, node=None, one_row=True, hardware=Hardware())
    assert (advice.micro_batch, advice.accumulation_steps) == (1, 4)


def test_layers_that_may_not_be_recomputed_are_not_advised_to_be() -> None:
    def ways(*, may_recompute: bool) -> set[bool]:
        advice = advise(
            L7,
            RUN,
            device=80 * GiB,
            node=None,
            one_row=False,
            may_recompute=may_recompute,
            hardware=Hardware(),
        )
        return {choice.gradient_checkpointing for choice in advice.choices}

    assert ways(may_recompute=True) == {False, True}
    assert ways(may_recompute=False) == {False}


def test_a_node_without_memory_for_its_processes_is_told() -> None:
    advice = advise(L7, RUN, device=80 * GiB, node=8 * GiB, one_row=False, hardware=Hardware())
    assert advice.zero_stage is None
    assert "host memory" in advice.why


def test_what_fits_whole_is_not_gathered_over_a_network() -> None:
    """70B on four nodes of eight: ZeRO-3 would receive 66 GiB a step over 50 GB/s."""
    advice, _ = _advice(L70, 80 * GiB, world_size=32)
    assert advice.zero_stage == 2
    assert "received in" in advice.why
    two, three = (
        next(c for c in advice.choices if (c.zero_stage, c.shard) == (n, "world")) for n in (2, 3)
    )
    assert two.speed.gather_s == 0
    assert three.speed.gather_s > two.speed.compute_s
    fast = Hardware(node_gbs=1e6, network_gbs=1e6)
    run = replace(RUN, world_size=32)
    advice = advise(L70, run, device=80 * GiB, node=None, one_row=False, hardware=fast)
    assert advice.choices[0].speed.gather_s < 1e-3
    assert advice.choices == tuple(sorted(advice.choices, key=lambda c: -c.speed.tokens_per_s))


def test_a_steps_time_by_hand() -> None:
    run = replace(RUN, world_size=16, checkpointing=False)  # two nodes, two rows a rank
    plan = plan_rank(L7, run, 3, 1)
    given = Hardware(tflops=100, memory_gbs=1000, node_gbs=100, network_gbs=10)
    found = speed(L7, run, plan, 1, given)
    weights = 6_476_005_376
    products = 4 * 2048 * (weights + 32000 * 4096) / 100e12
    unpacked = 2 * 2 * (weights // 2 + L7.statistics + 4 * weights) / 1000e9
    assert found.compute_s == pytest.approx(products + unpacked)
    assert found.gather_s == pytest.approx(plan.wire_base / 10e9)
    assert found.step_s == pytest.approx(found.gather_s + plan.wire_adapters / 10e9)
    assert found.tokens_per_s == pytest.approx(32 * 1024 / found.step_s)
    again = speed(L7, replace(run, checkpointing=True), plan, 1, given)
    assert again.compute_s - 1.5 * unpacked == pytest.approx(products + 2 * 2048 * weights / 100e12)
    one_node = replace(run, ranks_per_node=16)
    assert speed(L7, one_node, plan, 1, given).gather_s == pytest.approx(plan.wire_base / 100e9)


def test_a_base_shared_inside_a_node_stays_off_the_network() -> None:
    run = replace(RUN, world_size=32)
    inside = replace(run, shard="node")
    assert (run.sharing, inside.sharing, replace(inside, world_size=4).sharing) == (32, 8, 4)
    world, node = plan_rank(L70, run, 3, 1), plan_rank(L70, inside, 3, 1)
    norms = 161 * 8192 * 2
    assert node.base_weights == L70.base_bytes // 8 + norms
    assert node.optimizer == world.optimizer
    assert node.wire_base == pytest.approx(world.wire_base * (7 / 8) / (31 / 32))
    assert node.wire_adapters == world.wire_adapters
    given = Hardware(node_gbs=100, network_gbs=10)
    found = speed(L70, inside, node, 1, given)
    assert found.gather_s == pytest.approx(node.wire_base / 100e9)
    assert found.adapters_s == pytest.approx(node.wire_adapters / 10e9)
    advice, _ = _advice(L70, 24 * GiB, world_size=32)
    assert (advice.zero_stage, advice.shard) == (3, "node")
    assert "8 ranks" in advice.why
    alike = Hardware(node_gbs=100, network_gbs=100)
    advice = advise(L70, run, device=24 * GiB, node=None, one_row=False, hardware=alike)
    assert advice.shard == "world"
