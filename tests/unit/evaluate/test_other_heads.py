"""Runs whose head or whose generation settings are not what the architecture alone says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance
from safetensors.torch import load_file, save_file
from support.architectures import save_tiny
from support.tiny import tiny_tree

from lope_dist.config.load import validate_config
from lope_dist.evaluate.harness.lm import LopeLM
from lope_dist.evaluate.loaded.load import LoadedRun, load_run
from lope_dist.evaluate.loaded.prompts import ends_of_answer
from lope_dist.export.run import ExportRequest, export_run
from lope_dist.train.session import train

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture
def run_of(tmp_path: Path, alpaca_file):
    """Return a function: folder of a model, targets -> the folder of a run of two steps."""

    def run(model: Path, targets: list[str]) -> Path:
        tree = tiny_tree(model, alpaca_file, tmp_path / "run")
        tree["model"]["quantization"] = "none"
        tree["adapter"] = {"rank": 2, "targets": targets}
        stage = {"trainable": ["shared_a", "normal_b"], "lr": 0.05, "max_steps": 2}
        tree["train"]["stages"] = {"one": stage}
        return train(validate_config(tree, "test"))

    return run


def tied(folder: Path) -> Path:
    save_tiny(folder, "llama", tie_word_embeddings=True)
    return folder


def with_another_head(folder: Path) -> Path:
    path = tied(folder) / "model.safetensors"
    tensors = load_file(path)
    tensors[HEAD] = tensors[EMBEDDING].flip(0).contiguous()
    save_file(tensors, path, {"format": "pt"})
    return folder


def logits(run: LoadedRun) -> torch.Tensor:
    with torch.no_grad():
        return run.model(torch.arange(1, 9)[None]).logits


def test_a_head_apart_is_scored_and_exported_as_it_was_trained(run_of, tmp_path: Path) -> None:
    folder = run_of(with_another_head(tmp_path / "model"), ["q_proj", "v_proj"])
    run = load_run(folder)
    before = logits(run)
    model = LopeLM(run, "all")
    assert run.model.lm_head.weight is not run.model.model.embed_tokens.weight
    run.context.answer_as("masked")
    assert torch.equal(logits(run), before)
    asked = [Instance("loglikelihood", {}, ("Add one.", " Two"), 0)]
    assert torch.isfinite(torch.tensor(model.loglikelihood(asked, disable_tqdm=True)[0][0]))
    for kind in ("merged", "peft"):
        exported = export_run(folder, ExportRequest(kind, tmp_path / kind, calibration_rows=4))
        assert exported["comparison"]["distance"] < 1, kind


def test_an_adapted_head_that_is_tied_can_be_scored(run_of, tmp_path: Path) -> None:
    run = load_run(run_of(tied(tmp_path / "model"), ["q_proj", "lm_head"]))
    before = logits(run)
    LopeLM(run, "masked")
    assert torch.equal(logits(run), before)


def test_answers_end_as_the_models_generation_settings_say(run_of, tmp_path: Path) -> None:
    model = tied(tmp_path / "model")
    settings = {"eos_token_id": [256, 65], "repetition_penalty": 1.05, "top_k": 3}
    (model / "generation_config.json").write_text(json.dumps(settings))
    run = load_run(run_of(model, ["q_proj"]))
    assert run.model.generation_config.repetition_penalty == 1.05
    assert ends_of_answer(run) == [65, 256]
    LopeLM(run, "all")
    assert run.model.generation_config.eos_token_id == [65, 256]
