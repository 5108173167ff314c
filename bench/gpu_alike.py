"""Pieces of `bench/gpu.py` that stand beside published figures, and what a step is made of.

    alike       Llama-3-8B's and Qwen3-8B's shape, total rank 16 on all linear layers, 2 x 2048 and
                2 x 4096 packed tokens: LoPE and peft's LoRA
    large       the shape's q and v at twice the packed length a micro-step (8k tokens on a GPU):
                LoPE, peft's LoRA, and Hugging Face's Trainer
    dequantize  time and bytes of all NF4 weights dequantized once, and their share of a step
    memory      the peak of a step beside what `lope plan` says

A row that does not fit the device says so and the others go on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu import Bench

ALIKE = ("llama3-8b", "qwen3-8b"), ("tiny", "tiny-qwen3")
"""On a GPU, and in a trial on a CPU."""
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TOTAL_RANK, EXPERTS = 16, 4
ROWS = 2


def fitting(bench: Bench, row: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a row's figures, or that the device has too little memory for it."""
    try:
        return row()
    except bench.torch.OutOfMemoryError as error:
        return {"out_of_memory": str(error).splitlines()[0]}
    finally:
        bench.clear()


def alike(bench: Bench) -> dict[str, Any]:
    """Step both peers at each shape and length."""
    from random_nf4 import SHAPES, linear_parameters
    from random_step import LopeStep, PeftStep, packed_positions, random_ids

    from lope_dist.config.adapter import AdapterConfig

    adapter = AdapterConfig(rank=TOTAL_RANK // EXPERTS, num_normal=EXPERTS - 1, num_poison=1)
    found = {}
    for shape in ALIKE[0] if bench.is_cuda else ALIKE[1]:
        for kind in ("lope", "lora"):
            for length in (bench.packed // 2, bench.packed):

                def row(shape: str = shape, kind: str = kind, length: int = length) -> Any:
                    bench.clear()
                    if kind == "lope":
                        trainer = LopeStep(shape, bench.device, adapter, targets=ALL_LINEAR)
                    else:
                        trainer = PeftStep(shape, bench.device, TOTAL_RANK, targets=ALL_LINEAR)
                    ids = random_ids(ROWS, length, SHAPES[shape]["vocab_size"])
                    step = trainer.train(ids, packed_positions(ROWS, length))
                    seconds, weights = bench.seconds(step), linear_parameters(shape)
                    return bench.rates(seconds, ids.numel(), recomputes=False, weights=weights)

                found[f"{shape}_{kind}_{ROWS}x{length}"] = fitting(bench, row)
    return found


def large(bench: Bench) -> dict[str, Any]:
    """Step the shape's q and v with large micro-steps."""
    from peer import Rows, train_peer
    from random_step import packed_positions, random_ids

    ids = random_ids(ROWS, bench.packed, bench.vocabulary)

    def peft_or_lope(kind: str) -> dict[str, Any]:
        trainer = bench.build(kind, recomputes=False)
        step = trainer.train(ids, packed_positions(ROWS, bench.packed))
        return bench.rates(bench.seconds(step), ids.numel(), recomputes=False)

    def trainer() -> dict[str, Any]:
        model = bench.build("lora", recomputes=False).model
        rows = Rows([*ids] * bench.steps, [*ids] * bench.steps)
        with tempfile.TemporaryDirectory() as out:
            train_peer(model, rows, ROWS, 1, out)  # warm-up
            seconds = train_peer(model, rows, ROWS, bench.steps, out) / bench.steps
        return bench.rates(seconds, ids.numel(), recomputes=False)

    rows = {
        "lope": lambda: peft_or_lope("lope"),
        "lora": lambda: peft_or_lope("lora"),
        "trainer": trainer,
    }
    return {f"{kind}_{ids.numel()}": fitting(bench, row) for kind, row in rows.items()}


def dequantize(bench: Bench) -> dict[str, Any]:
    """Time one pass over all NF4 weights, of which a step makes two, and the step itself."""
    from random_step import packed_positions, random_ids

    from lope_dist.model.nf4 import NF4Linear

    trainer = bench.build("lope", recomputes=False)
    layers = [layer for layer in trainer.model.modules() if isinstance(layer, NF4Linear)]

    def all_weights() -> None:
        for layer in layers:
            layer.dequantized()

    seconds = bench.seconds(all_weights)
    ids = random_ids(1, bench.packed, bench.vocabulary)
    step_s = bench.seconds(trainer.train(ids, packed_positions(1, bench.packed)))
    read = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)
    written = sum(layer.layout.numel * layer.weight.element_size() for layer in layers)
    return {
        "all_weights_s": round(seconds, 5),
        "gb_per_s": round((read + written) / seconds / 1e9, 1),
        f"step_{bench.packed}_s": round(step_s, 4),
        "share_of_step": round(2 * seconds / step_s, 4),
    }


def memory(bench: Bench) -> dict[str, Any]:
    """Return the peak of a step of one packed row, and the plan of the same run on one rank."""
    from random_nf4 import architecture
    from random_step import packed_positions, random_ids

    from lope_dist.config.load import validate_config
    from lope_dist.train.premises.sizing import plan_run

    arch = architecture(bench.shape)
    stated = {"model_type": arch.model_type, **arch.to_diff_dict()}
    tree = {
        "output_dir": "unused",
        "model": {"name_or_path": bench.shape, "architecture": stated},
        "data": {"path": "unused", "max_length": bench.packed},
        "train": {"global_batch": 1, "micro_batch": 1},
        "engine": {"kind": "local"},
    }
    config = validate_config(tree, "bench")
    total = 80 << 30
    if bench.is_cuda:
        total = bench.torch.cuda.get_device_properties(bench.device).total_memory
    plan = plan_run(config, world_size=1, gpu_memory=total, node_memory=None, ranks_per_node=1)
    trainer = bench.build("lope", recomputes=False)
    ids = random_ids(1, bench.packed, bench.vocabulary)
    bench.seconds(trainer.train(ids, packed_positions(1, bench.packed)), warmup=1)
    planned, peak = plan["zero2"]["total"] / 2**30, bench.peak_gib()
    share = None if peak is None else round(peak / planned, 4)
    return {"planned_gib": round(planned, 3), "peak_gib": peak, "peak_over_plan": share}


MORE: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "alike": alike,
    "large": large,
    "dequantize": dequantize,
    "memory": memory,
}
