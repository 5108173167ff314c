"""What a run folder may hold, made up: for the tests of the report."""

import json

RESULTS = {
    "rows": [
        {
            "name": "base",
            "tasks": {
                "demo": {"acc": 0.5012, "acc_stderr": 0.0251, "version": 1.0, "limit": None},
                "demo_tense": {"acc": 0.41, "acc_stderr": 0.08},
                "gsm8k": {"exact_match_strict": 0.1, "exact_match_stderr_strict": 0.02},
            },
        },
        {
            "name": "masked",
            "tasks": {
                "demo": {"acc": 0.8734, "acc_stderr": 0.0166, "num_fewshot": 0},
                "demo_tense": {"acc": 0.77, "acc_stderr": "N/A"},
            },
        },
    ],
    "groups": {"demo": ["demo_tense"]},
}
MODULES = [f"model.layers.{i}.self_attn.{p}" for i in range(4) for p in ("q_proj", "v_proj")]
ROUTER = {
    "poison": {name: [0.25, 0.25, 0.5] for name in MODULES},
    "finetune": {name: [0.4, 0.35, 0.25] for name in MODULES},
    "experts": ["normal_0", "normal_1", "poison_0"],
}
COST = {
    "poison": {
        "seconds": 61.0, "steps": 20, "tokens": 1999, "ranks": 2,
        "peak_memory_bytes": 3 << 30, "peak_host_bytes": 5 << 29,
    }
}  # fmt: skip
LOSSES = {
    "data": "test.jsonl",
    "rows": {
        "base": {"loss_per_token": 2.5, "stderr": 0.02, "num_tokens": 1234, "num_rows": 9},
        "masked": {"loss_per_token": None, "stderr": None, "num_tokens": 0, "num_rows": 0},
    },
}
RANKING = {
    "data": "noisy.jsonl",
    "by": "gain",
    "num_rows": 5,
    "histogram": {"edges": [0.0, 1.0, 2.0], "clean": [2, 1], "noisy": [0, 2]},
    "detection": {
        "groups": {"all": {"num_noisy": 2, "auroc": {"gain": 0.75}, "stderr": {"gain": 0.1}}}
    },
}
POISON_WEIGHT = {
    "poison": {
        "clean": dict.fromkeys(MODULES, 0.2),
        "corrupted": dict.fromkeys(MODULES, 0.35),
    }
}
SETTINGS = """
output_dir: '<script>alert(1)</script>'
model: {name_or_path: tiny, quantization: nf4}
adapter: {rank: 4, num_normal: 2, num_poison: 1}
data: {path: rows.jsonl, template: alpaca, max_length: 256, packing: true}
noise:
  data: {rate: 0.05, unit: word, operations: [char_insert]}
  text: {rate: 0.1, unit: word, operations: {word_order: 2.0}}
  embedding: {alpha: 0.05}
train: {stages: {poison: {noise: hybrid}, finetune: {noise: none}}}
"""


def metric_lines(stage, num_steps, start, every=1):
    return [
        {
            "stage": stage, "step": step, "loss": 4.0 - 0.1 * step, "lr": {"shared_a": 1e-3},
            "grad_norm": 1.0, "tokens": 100, "tokens_per_s": 50.0, "epoch": 0.0,
            "time": start + 2.0 * step, "target_tokens": 40,
            "drift": {"shared_a": 1e-3 * (step + 1), "poison_b": 2e-3 * (step + 1)},
        }
        for step in range(every - 1, num_steps, every)
    ]  # fmt: skip


def write_metrics(folder, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
