"""The lm-eval model `lope` beside lm-eval's own `hf` with peft, on the same requests.

SmolLM2-135M in NF4, masked and compensated answers on our side, LoRA of the same total rank on
the other, in one process, in turns. The last line is one JSON object; its `ratios`:

    requests_per_s_over_hf   target >= 0.95

Run: python bench/eval.py [--turns 5] [--requests 24]
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from common import command, finish, in_turn, median_ratio
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peer import load_peer
from step import MODEL
from trainer import NORMAL, POISON, RANK, build_config

from lope_dist.config.model import ModelConfig
from lope_dist.evaluate.harness.lm import LopeLM
from lope_dist.evaluate.loaded.load import LoadedRun
from lope_dist.model.build import load_model, load_tokenizer
from lope_dist.model.families import family_of
from lope_dist.model.placement import Replicated
from lope_dist.model.source import model_folder
from lope_dist.train.checkpoint.folder import Checkpoint
from lope_dist.train.premises.preflight import adapt


def load_ours(model_name: str) -> LoadedRun:
    """Return the model with experts as if trained: random ones."""
    config = build_config(model_name, Path("unused.jsonl"))
    model = load_model(config.model, Replicated(torch.device("cpu")), progress=False)
    context = adapt(model, config, family_of(model))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lope.B." in name:
                parameter.normal_(0.0, 0.02, generator=generator)
    model.eval()
    checkpoint = Checkpoint(Path("unused"), 0, "bench")
    tokenizer = load_tokenizer(config.model)
    return LoadedRun(checkpoint.folder, config, checkpoint, model, tokenizer, context)


def main() -> None:
    """Print the figures."""
    parser = command(__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--requests", type=int, default=24)
    arguments = parser.parse_args()
    ours = LopeLM(load_ours(arguments.model), "masked", batch_size=8)
    folder = str(model_folder(ModelConfig(name_or_path=arguments.model)))
    peer = load_peer(folder, RANK * (NORMAL + POISON), 0.0).eval()
    hf: Any = HFLM  # its own registration hides its type
    theirs = hf(pretrained=peer, tokenizer=ours.tokenizer, batch_size=8)
    requests = [
        Instance(
            request_type="loglikelihood",
            doc={},
            arguments=(" ".join(str(k * i % 89) for k in range(8 + i % 24)), f" {i}"),
            idx=i,
        )
        for i in range(arguments.requests)
    ]
    times = in_turn(
        {
            "ours": lambda: ours.loglikelihood(requests, disable_tqdm=True),
            "hf": lambda: theirs.loglikelihood(requests, disable_tqdm=True),
        },
        arguments.turns,
    )
    rates = {f"{n}_requests_per_s": len(requests) / statistics.median(t) for n, t in times.items()}
    finish(
        "eval",
        {"requests_per_s_over_hf": median_ratio(times["hf"], times["ours"])},
        {"requests_per_s_over_hf": ">= 0.95"},
        {name: round(rate, 2) for name, rate in rates.items()},
        vars(arguments),
    )


if __name__ == "__main__":
    main()
