"""Exports of models whose files, layers or ties are not a Llama's, read by stock libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors import safe_open
from support.quick import quick
from support.tiny import save_byte_tokenizer, tiny_tree
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
)

from lope_dist.adapters.lope import lope_layers
from lope_dist.config.load import validate_config
from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.runlog import read_json
from lope_dist.evaluate.loaded.load import LoadedRun, load_run
from lope_dist.evaluate.loaded.prompts import ends_of_answer
from lope_dist.export import formats, lora
from lope_dist.export.run import ExportRequest, export_run
from lope_dist.model import source
from lope_dist.model.build import load_model, load_tokenizer
from lope_dist.model.families import family_of
from lope_dist.model.placement import Replicated
from lope_dist.train import session
from lope_dist.train.checkpoint.folder import Checkpoint
from lope_dist.train.checkpoint.integrity import defect
from lope_dist.train.premises.preflight import adapt

DECODER = {
    "vocab_size": 258,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "eos_token_id": 256,
    "bos_token_id": None,
    "pad_token_id": 257,
}
QV = ["q_proj", "v_proj"]
CHAT = "{% for m in messages %}{{ m.content }}{{ pad_token if m.role == 'assistant' }}{% endfor %}"
MODELS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "tied_head": ("llama", DECODER | {"tie_word_embeddings": True}, QV),
    "experts": ("mixtral", DECODER | {"num_local_experts": 4, "num_experts_per_tok": 2}, QV),
    "buffers": ("gemma3_text", DECODER | {"head_dim": 16, "sliding_window": 16}, QV),
    "conv1d": (
        "gpt2",
        {"vocab_size": 258, "n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.2},
        ["c_attn", "c_fc"],
    ),
    "fused_in_the_file": ("gpt_neox", DECODER, ["query_key_value"]),
    "shared_embedding": (
        "t5",
        {
            "vocab_size": 258,
            "d_model": 64,
            "d_kv": 16,
            "d_ff": 128,
            "num_layers": 1,
            "num_heads": 4,
            "decoder_start_token_id": 257,
            "pad_token_id": 257,
            "eos_token_id": 256,
        },
        ["q", "v"],
    ),
}


def save_model(folder: Path, model_type: str, values: dict[str, Any]) -> None:
    """Write a random model in float32, its norms and biases not trivially one or zero."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **values)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    save_byte_tokenizer(folder)


def train(folder: Path, name: str, data: Path, **model: Any) -> Path:
    """Train a LoRA on one of the models, briefly, and return the run's folder."""
    model_type, values, targets = MODELS[name]
    save_model(folder / "model", model_type, values)
    tree = tiny_tree(folder / "model", data, folder / "run")
    tree["model"] |= model
    tree["data"]["packing"] = False
    tree["adapter"] = {"num_normal": 1, "num_poison": 0, "dropout": 0.0, "rank": 4}
    tree["adapter"]["targets"] = targets
    roles = ["shared_a", "normal_b"]
    tree["train"]["stages"] = {"only": {"trainable": roles, "lr": 0.03, "max_steps": 3}}
    return session.train(validate_config(tree, "test"))


@pytest.mark.parametrize("name", quick(MODELS, "experts", "conv1d", "shared_embedding"))
def test_a_lora_is_exported_exactly(tmp_path: Path, alpaca_file: Path, name: str) -> None:
    """As measured by the export itself, from disk, on the model of transformers and peft."""
    run = train(tmp_path, name, alpaca_file)
    for kind in ("peft", "merged"):
        export = export_run(run, ExportRequest(kind, tmp_path / kind, calibration_rows=8))
        assert export["is_exact"], kind
        assert export["comparison"]["distance_read"] < 1e-5, kind
        assert export["comparison"]["kl_base"] > 0.01, "the adapter does nothing"
    merged = read_json(tmp_path / "merged" / "config.json")
    base = read_json(tmp_path / "model" / "config.json")
    ignored = {"dtype", "transformers_version"}
    assert {k: v for k, v in merged.items() if k not in ignored} == {
        k: v for k, v in base.items() if k not in ignored
    }


@pytest.mark.parametrize("address", ["model", "package:tiny"])
def test_the_base_is_found_by_its_address(
    tmp_path: Path, alpaca_file: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """From another folder than the one that the run was started in."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "model", *MODELS["tied_head"][:2])
    monkeypatch.setattr(source, "_from_package", lambda package: tmp_path / "model")
    tree = tiny_tree(tmp_path / "model", alpaca_file, Path("run"))
    tree["model"] |= {"name_or_path": address, "quantization": "none"}
    tree["adapter"] |= {"num_normal": 1, "num_poison": 0, "dropout": 0.0}
    roles = ["shared_a", "normal_b"]
    tree["train"]["stages"] = {"only": {"trainable": roles, "lr": 0.03, "max_steps": 2}}
    run = session.train(validate_config(tree, "test"))
    export_run(run, ExportRequest("peft", Path("peft"), calibration_rows=4))
    assert (tmp_path / "peft-base").exists() == (address != "model")
    assert defect(tmp_path / "peft") is None
    ids = torch.arange(2, 40).view(2, 19)
    loaded = load_run(run)
    with torch.no_grad():
        expected = loaded.model(ids).logits
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        found = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "peft").eval()(ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_a_base_of_the_hub_is_named_with_its_commit(tmp_path: Path, monkeypatch) -> None:
    commit = tmp_path / "models--org--name" / "snapshots" / "0123abc"
    monkeypatch.setattr(source, "model_folder", lambda config: commit)
    address = lora.base_address(ModelConfig(name_or_path="org/name"), tmp_path)
    assert address == ("org/name", "0123abc")


@pytest.mark.parametrize("kind", ["peft", "merged"])
def test_a_misread_export_is_not_kept(
    tmp_path: Path, alpaca_file: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A layer's B is written a hundredth larger than it is."""
    run = train(tmp_path, "tied_head", alpaca_file)
    real = {"peft": formats.write_peft, "merged": formats.write_merged}[kind]

    def write(*arguments):
        *rest, layers = arguments
        name, low = next(iter(layers.items()))
        real(*rest, layers | {name: low._replace(B_OR=1.01 * low.B_OR)})

    monkeypatch.setattr(formats, f"write_{kind}", write)
    with pytest.raises(LopeError, match=r"q_proj"):
        export_run(run, ExportRequest(kind, tmp_path / "out", calibration_rows=4))
    assert not list(tmp_path.glob("*out*"))


def test_the_tokenizer_keeps_the_bases_own_padding(tmp_path: Path, alpaca_file: Path) -> None:
    model_type, values, _ = MODELS["tied_head"]
    save_model(tmp_path / "model", model_type, values)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "model")
    tree = tiny_tree(tmp_path / "model", alpaca_file, tmp_path / "run")
    tree["train"]["stages"]["finetune"]["max_steps"] = 1
    del tree["train"]["stages"]["poison"]
    run = session.train(validate_config(tree, "test"))
    assert load_run(run).tokenizer.pad_token == "<eos>"
    export_run(run, ExportRequest("merged", tmp_path / "merged", calibration_rows=4))
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").pad_token is None


@pytest.mark.parametrize("name", ["tied_head", "shared_embedding"])
def test_an_adapted_head_is_untied(tmp_path: Path, alpaca_file: Path, name: str) -> None:
    model_type, values, targets = MODELS[name]
    values = {**values, "tie_word_embeddings": True}
    save_model(tmp_path / "model", model_type, values)
    tree = tiny_tree(tmp_path / "model", alpaca_file, tmp_path / "run")
    tree["adapter"] = {"num_normal": 1, "num_poison": 0, "dropout": 0.0, "rank": 4}
    tree["adapter"]["targets"] = [*targets, "lm_head"]
    tree["train"]["stages"] = {"only": {"trainable": ["shared_a", "normal_b"]}}
    tree["data"]["packing"] = False
    config = validate_config(tree, "test")
    model = load_model(config.model, Replicated(torch.device("cpu")), progress=False)
    context = adapt(model, config, family_of(model))
    with torch.no_grad():
        for layer in lope_layers(model).values():
            layer.lope.B.normal_0.normal_(std=0.1)
    checkpoint, tokenizer = Checkpoint(tmp_path, 1, "only"), load_tokenizer(config.model)
    run = LoadedRun(tmp_path / "run", config, checkpoint, model, tokenizer, context)
    for kind in ("peft", "merged"):
        folder = tmp_path / kind
        folder.mkdir()
        examples = str(alpaca_file), 8
        if kind == "peft":
            write = formats.prepare_peft(run, folder, *examples)
        else:
            write = formats.prepare_merged(run, *examples)
        with run.together() as weights:
            written = write(folder, weights)
        assert written.is_exact, kind
    assert read_json(tmp_path / "merged" / "config.json")["tie_word_embeddings"] is False
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as file:
        names = set(file.keys())
        assert {"lm_head.weight"} < names
    base = AutoModelForCausalLM if model_type == "llama" else AutoModelForSeq2SeqLM
    found = base.from_pretrained(tmp_path / "merged")
    assert not torch.equal(found.lm_head.weight, found.get_input_embeddings().weight)


@pytest.mark.parametrize("has_more", [True, False])
def test_an_export_is_asked_as_its_run_is(
    tmp_path: Path, alpaca_file: Path, has_more: bool
) -> None:
    """Answers of the chat end with <pad>; the base has more templates, and says how it ends."""
    base = tmp_path / "model"
    save_model(base, *MODELS["tied_head"][:2])
    (base / "generation_config.json").unlink(missing_ok=True)
    tree = tiny_tree(base, alpaca_file, tmp_path / "run")
    if has_more:
        tokenizer = AutoTokenizer.from_pretrained(base)
        tokenizer.chat_template = {"default": CHAT, "tool_use": f"Tools. {CHAT}"}
        tokenizer.save_pretrained(base)
        says = {"eos_token_id": 256, "temperature": 0.3}  # transformers would not write these
        (base / "generation_config.json").write_text(json.dumps(says))
    else:
        tree["model"]["chat_template"] = CHAT
    tree["data"] |= {"template": "chat", "packing": False}
    tree["train"]["stages"]["finetune"]["max_steps"] = 1
    del tree["train"]["stages"]["poison"]
    folder = session.train(validate_config(tree, "test"))
    run = load_run(folder)
    ends = ends_of_answer(run)
    assert ends == [256, 257]
    for kind in ("peft", "merged"):
        out = tmp_path / kind
        export_run(folder, ExportRequest(kind, out, calibration_rows=4))
        assert defect(out) is None
        assert all(p.stat().st_mode & 0o111 for p in out.rglob("*") if p.is_dir())
        generation = GenerationConfig.from_pretrained(out)
        assert generation.eos_token_id == ends
        assert generation.temperature == (0.3 if has_more else None)
        assert AutoTokenizer.from_pretrained(out).chat_template == run.tokenizer.chat_template
