"""Everything worth knowing on one GPU of 80 GB, in pieces of at most ten minutes.

Nothing is read and nothing downloaded: LLaMA2-7B's shape with random NF4 weights made on the
device. Every piece prints a line; the last line is one JSON object.

    load       the model made on the device: seconds, memory
    train      tokens/s, TFLOP/s, peak memory: LoPE and peft's LoRA of the same total rank, at
               1024 tokens a row and 4096 packed, recomputing or not
    trainer    Hugging Face Trainer with peft on the same rows
    long       LoPE with one row of 32k tokens, recomputing
    masked     forward passes: base, all experts, masked plain, masked and compensated
    profile    time of each kernel in a step
    alike, large, dequantize, memory    see `gpu_alike.py`

The JSON file is written after each piece.

TFLOP/s count 4N a token (forward, and backward through a frozen base), 6N with recomputation;
N are the weights that a token is multiplied with.

Run: python bench/gpu.py [--pieces load,train,masked]
     python bench/gpu.py --shape tiny --device cpu          a trial of the script itself
     python bench/gpu.py --wheels                           what to bring without a network
"""

from __future__ import annotations

import argparse
import gc
import re
import statistics
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import command, finish, write
from gpu_alike import MORE

PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "A800": 312.0, "L40": 181.0, "4090": 165.0}
"""Dense bfloat16 TFLOP/s of the data sheets."""
PIECES = ("load", "train", "trainer", "long", "masked", "profile", *MORE)
LIMIT_S = 600.0


def wheels() -> list[str]:
    """Return what a machine without a network needs: the project's dependencies and Liger."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())[
        "project"
    ]
    needed = [*project["dependencies"], *project["optional-dependencies"]["cuda"]]
    return sorted(re.split(r"[<>=!~]", requirement)[0] for requirement in needed)


class Bench:
    """One shape on one device."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import torch
        from random_nf4 import SHAPES, linear_parameters

        from lope_dist.config.adapter import AdapterConfig

        self.torch = torch
        self.shape = arguments.shape
        self.device = torch.device(arguments.device)
        self.is_cuda = self.device.type == "cuda"
        self.steps = arguments.steps
        self.vocabulary = SHAPES[self.shape]["vocab_size"]
        self.weights = linear_parameters(self.shape)
        self.adapter = AdapterConfig()
        self.total_rank = self.adapter.rank * self.adapter.num_experts
        lengths = (1024, 4096, 32768) if self.is_cuda else (64, 128, 256)
        self.short, self.packed, self.longest = lengths
        self.card = torch.cuda.get_device_name(self.device) if self.is_cuda else "cpu"
        known = (peak for name, peak in PEAKS.items() if name in self.card)
        self.peak_tflops = arguments.peak_tflops or next(known, None)

    def sync(self) -> None:
        """Wait for the device."""
        if self.is_cuda:
            self.torch.cuda.synchronize()

    def clear(self) -> None:
        """Give memory back and forget peaks."""
        gc.collect()
        if self.is_cuda:
            self.torch.cuda.empty_cache()
            self.torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        """Return the peak since `clear`; None on a CPU."""
        return self.torch.cuda.max_memory_allocated() / 2**30 if self.is_cuda else None

    def seconds(self, step: Callable[[], Any], warmup: int = 2) -> float:
        """Return the median seconds of a step."""
        times = []
        for repeat in range(self.steps + warmup):
            self.sync()
            start = time.perf_counter()
            step()
            self.sync()
            if repeat >= warmup:
                times.append(time.perf_counter() - start)
        return statistics.median(times)

    def rates(
        self, seconds: float, tokens: int, recomputes: bool, weights: int | None = None
    ) -> dict[str, Any]:
        """Return what a step of so many seconds means; ``weights`` are another shape's."""
        weights = weights or self.weights
        tflops = (6 if recomputes else 4) * weights * tokens / seconds / 1e12
        share = None if self.peak_tflops is None else round(tflops / self.peak_tflops, 4)
        return {
            "step_s": round(seconds, 4),
            "tokens_per_s": round(tokens / seconds, 1),
            "tflops": round(tflops, 3),
            "share_of_peak": share,
            "peak_gib": self.peak_gib(),
        }

    def build(self, kind: str, recomputes: bool) -> Any:
        """Return `lope` or `lora`, ready to step."""
        from random_step import LopeStep, PeftStep

        self.clear()
        if kind == "lope":
            return LopeStep(self.shape, self.device, self.adapter, recomputes)
        return PeftStep(self.shape, self.device, self.total_rank, recomputes)

    def load(self) -> dict[str, Any]:
        """Make the model."""
        start = time.perf_counter()
        model = self.build("lope", recomputes=False)
        self.sync()
        held = sum(p.numel() * p.element_size() for p in model.model.parameters())
        return {
            "seconds": round(time.perf_counter() - start, 2),
            "weights_gib": round(held / 2**30, 3),
            "peak_gib": self.peak_gib(),
        }

    def train(self) -> dict[str, Any]:
        """Step LoPE and LoRA at both lengths, with and without recomputing."""
        from random_step import packed_positions, random_ids

        found: dict[str, Any] = {}
        for recomputes in (False, True):
            for kind in ("lope", "lora"):
                trainer = self.build(kind, recomputes)
                for length in (self.short, self.packed):
                    name = f"{kind}_{length}" + "_recomputing" * recomputes
                    self.clear()
                    example = 512 if length == self.packed else length
                    positions = packed_positions(1, length, example)
                    step = trainer.train(random_ids(1, length, self.vocabulary), positions)
                    found[name] = self.rates(self.seconds(step), length, recomputes)
                del trainer, step
        return found

    def trainer(self) -> dict[str, Any]:
        """Step Hugging Face's Trainer with peft."""
        from peer import Rows, train_peer
        from random_step import random_ids

        model = self.build("lora", recomputes=False).model
        row = random_ids(1, self.short, self.vocabulary)[0]
        rows = Rows([row] * self.steps, [row] * self.steps)
        with tempfile.TemporaryDirectory() as out:
            train_peer(model, rows, 1, 1, out)  # warm-up
            seconds = train_peer(model, rows, 1, self.steps, out) / self.steps
        return {f"trainer_{self.short}": self.rates(seconds, self.short, recomputes=False)}

    def long(self) -> dict[str, Any]:
        """Step one very long row, with noise on the embeddings."""
        from random_step import packed_positions, random_ids

        from lope_dist.adapters.context import StageDescription
        from lope_dist.config.noise import EmbeddingNoiseConfig

        trainer = self.build("lope", recomputes=True)
        ids = random_ids(1, self.longest, self.vocabulary)
        step = trainer.train(ids, packed_positions(1, self.longest, self.longest))
        trainer.context.begin_stage(StageDescription(EmbeddingNoiseConfig()))
        seconds = self.seconds(step, warmup=1)
        return {f"lope_{self.longest}_recomputing": self.rates(seconds, self.longest, True)}

    def masked(self) -> dict[str, Any]:
        """Time forward passes by experts."""
        from random_step import random_ids

        from lope_dist.adapters.context import Answer
        from lope_dist.config.adapter import CompensationConfig

        trainer = self.build("lope", recomputes=False)
        ids = random_ids(1, self.short, self.vocabulary)
        plain, conserve = CompensationConfig(mode="none"), CompensationConfig(mode="conserve")
        answers = {
            "base": Answer("none", plain),
            "all": Answer("all", plain),
            "masked_plain": Answer("masked", plain),
            "masked_compensated": Answer("masked", conserve),
        }
        return {
            f"{name}_s": round(self.seconds(trainer.answer(ids, answer)), 5)
            for name, answer in answers.items()
        }

    def profile(self) -> dict[str, Any]:
        """Return the ten kernels that take most of a step."""
        from random_step import packed_positions, random_ids
        from torch.profiler import ProfilerActivity, profile

        trainer = self.build("lope", recomputes=False)
        ids = random_ids(1, self.short, self.vocabulary)
        step = trainer.train(ids, packed_positions(1, self.short))
        self.seconds(step, warmup=1)
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self.is_cuda
        with profile(activities=activities) as recorded:
            step()
            self.sync()
        key = "self_device_time_total" if self.is_cuda else "self_cpu_time_total"
        events = sorted(recorded.key_averages(), key=lambda e: -getattr(e, key))[:10]
        return {e.key[:80]: round(getattr(e, key) / 1e3, 3) for e in events}


def main() -> None:
    """Run the pieces."""
    parser = command(__doc__)
    parser.add_argument("--shape", default="llama2-7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pieces", default=",".join(PIECES))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--peak-tflops", type=float, help="the card's, where it is not known")
    parser.add_argument("--wheels", action="store_true", help="print what to install, and end")
    arguments = parser.parse_args()
    if arguments.wheels:
        print(f"pip download --dest wheels {' '.join(wheels())}")
        return
    unknown = set(arguments.pieces.split(",")) - set(PIECES)
    if unknown:
        parser.error(f"unknown pieces {sorted(unknown)}; there are {', '.join(PIECES)}")
    bench = Bench(arguments)
    figures: dict[str, Any] = {"card": bench.card, "peak_tflops": bench.peak_tflops}
    for piece in arguments.pieces.split(","):
        start = time.perf_counter()
        try:
            figures[piece] = MORE[piece](bench) if piece in MORE else getattr(bench, piece)()
        except bench.torch.OutOfMemoryError as error:
            figures[piece] = {"out_of_memory": str(error).splitlines()[0]}
        seconds = round(time.perf_counter() - start, 1)
        late = " (longer than a piece should be)" if seconds > LIMIT_S else ""
        print(f"{piece}: {figures[piece]} [{seconds} s]{late}", flush=True)
        figures[f"{piece}_seconds"] = seconds
        bench.clear()
        write("gpu", ratios(figures, bench), {}, figures, vars(arguments))
    finish("gpu", ratios(figures, bench), {}, figures, vars(arguments))


def ratios(figures: dict[str, Any], bench: Bench) -> dict[str, float]:
    """Return LoPE over its peers, as far as they were measured."""
    train = figures.get("train", {})
    found = {}
    for length in (bench.short, bench.packed):
        ours, lora = train.get(f"lope_{length}"), train.get(f"lora_{length}")
        if ours and lora:
            found[f"tokens_per_s_over_lora_{length}"] = ours["tokens_per_s"] / lora["tokens_per_s"]
    ours, peer = train.get(f"lope_{bench.short}"), figures.get("trainer", {})
    if ours and f"trainer_{bench.short}" in peer:
        theirs = peer[f"trainer_{bench.short}"]["tokens_per_s"]
        found["tokens_per_s_over_trainer"] = ours["tokens_per_s"] / theirs
    rows = {**figures.get("alike", {}), **figures.get("large", {})}
    rates = {name: row["tokens_per_s"] for name, row in rows.items() if "tokens_per_s" in row}
    for name in (name for name in rates if "lope_" in name):
        for peer in ("lora", "trainer"):
            if (other := name.replace("lope_", f"{peer}_")) in rates:
                found[f"{name}_over_{peer}"] = rates[name] / rates[other]
    if (share := figures.get("memory", {}).get("peak_over_plan")) is not None:
        found["peak_over_plan"] = share
    masked = figures.get("masked", {})
    if "masked_plain_s" in masked:
        plain = masked["masked_plain_s"]
        found["masked_compensated_over_plain"] = masked["masked_compensated_s"] / plain
    return found


if __name__ == "__main__":
    main()
