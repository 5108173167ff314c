import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from lope_dist.core.errors import LopeError
from lope_dist.evaluate.loaded.load import load_run
from lope_dist.export.run import ExportRequest, export_run


def test_the_last_checkpoint_is_in_the_model_and_ready_to_answer(trained) -> None:
    loaded = load_run(trained.folder)
    assert loaded.checkpoint.folder.name == "2-finetune"
    saved = load_file(loaded.checkpoint.folder / "adapter.safetensors")
    held = {n: p for n, p in loaded.model.named_parameters() if ".lope." in n}
    assert set(held) == set(saved)
    assert all(torch.equal(held[name], saved[name]) for name in saved)
    assert not loaded.model.training
    assert loaded.context.stage.embedding_noise is None
    assert loaded.context.answer.compensation == trained.config.adapter.compensation


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LopeError, match=r"run\.yaml"):
        load_run(tmp_path)


def test_a_run_without_a_checkpoint_is_refused(run_copy: Path) -> None:
    shutil.rmtree(run_copy / "checkpoints")
    with pytest.raises(LopeError, match=r"/copy' .*checkpoint"):
        load_run(run_copy)


def test_after_stage_one_alone_its_checkpoint_is_taken(run_copy: Path) -> None:
    shutil.rmtree(run_copy / "checkpoints" / "2-finetune")
    assert load_run(run_copy).checkpoint.stage == "poison"


@pytest.mark.parametrize(
    "change",
    [
        {"targets": ["q_proj"]},  # the checkpoint has more than the model
        {"targets": ["q_proj", "v_proj", "k_proj"]},  # the model has more than the checkpoint
        {"rank": 8},
        {"num_normal": 2},
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(run_copy: Path, change: dict) -> None:
    tree = yaml.safe_load((run_copy / "run.yaml").read_text())
    tree["adapter"] |= change
    (run_copy / "run.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(LopeError, match=r"'model\.layers\.\d\.self_attn\."):
        load_run(run_copy)


def test_a_damaged_description_is_told(run_copy: Path) -> None:
    path = run_copy / "checkpoints" / "2-finetune" / "adapter.json"
    path.write_text(json.dumps({"format": 1}))
    with pytest.raises(LopeError, match=r"adapter\.json"):
        load_run(run_copy)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host may have FlashAttention")
def test_a_run_that_settled_on_flash_attention_is_read_without_it(run_copy: Path) -> None:
    tree = yaml.safe_load((run_copy / "run.yaml").read_text())
    assert tree["model"]["attention"] == "sdpa", "what the run has settled"
    tree["model"]["attention"], tree["train"]["micro_batch"] = "flash_attention_2", 1
    (run_copy / "run.yaml").write_text(yaml.safe_dump(tree))
    assert load_run(run_copy).model.config._attn_implementation == "sdpa"


def on_other_base(run: Path, base: Path, part: str) -> None:
    """Change a part of the base that a run names, as a folder that was replaced would."""
    other = shutil.copytree(base, run.parent / "other")
    if part == "base weights":
        weights = load_file(other / "model.safetensors")
        weights["model.norm.weight"] += 1
        save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    elif part == "architecture":
        values = json.loads((other / "config.json").read_text()) | {"rope_theta": 5.0}
        (other / "config.json").write_text(json.dumps(values))
    else:
        (other / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    tree = yaml.safe_load((run / "run.yaml").read_text())
    tree["model"]["name_or_path"] = str(other)
    (run / "run.yaml").write_text(yaml.safe_dump(tree))


@pytest.mark.parametrize("part", ["base weights", "architecture", "tokenizer"])
def test_a_base_that_was_not_trained_on_is_refused(
    run_copy: Path, tiny_llama: Path, part: str
) -> None:
    on_other_base(run_copy, tiny_llama, part)
    with pytest.raises(LopeError, match=f"2-finetune was trained on other {part} than .*/other'"):
        load_run(run_copy, progress=False)


@pytest.mark.parametrize("part", ["base weights", "tokenizer"])
def test_a_tokenizer_may_be_another_after_an_upgrade_and_that_is_told(
    run_copy: Path, tiny_llama: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    on_other_base(run_copy, tiny_llama, part)
    manifest = json.loads((run_copy / "manifest.json").read_text())
    for start in manifest["starts"]:
        start["packages"]["transformers"] = "4.0"
    (run_copy / "manifest.json").write_text(json.dumps(manifest))
    if part == "tokenizer":
        load_run(run_copy, progress=False)
        assert "2-finetune was trained on other tokenizer than" in capsys.readouterr().err
        return
    with pytest.raises(LopeError, match="other base weights"):
        load_run(run_copy, progress=False)


def test_a_purified_export_is_not_put_on_another_base(
    run_copy: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    out = tmp_path / "purified"
    export_run(run_copy, ExportRequest("purified", out))
    on_other_base(out, tiny_llama, "base weights")
    with pytest.raises(LopeError, match="was trained on other base weights than"):
        load_run(out, progress=False)
    description = json.loads((out / "adapter.json").read_text())
    del description["fingerprints"]  # as older exports have it
    (out / "adapter.json").write_text(json.dumps(description))
    assert load_run(out, progress=False).context.is_purified
