"""Each format is written from a trained run and read again by who it is for."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lope_dist.adapters.context import Answer
from lope_dist.adapters.lope import lope_layers
from lope_dist.cli import main
from lope_dist.config.data import DataConfig
from lope_dist.core.bars import transformers_bars_on_a_terminal
from lope_dist.core.errors import LopeError
from lope_dist.evaluate.loaded.load import load_run
from lope_dist.export import purified
from lope_dist.export.calibration import calibration_batches
from lope_dist.export.card import _results
from lope_dist.export.lora import write_peft
from lope_dist.export.run import ExportRequest, export_run
from lope_dist.export.static import StaticLinear, static_lora, swapped
from lope_dist.train.checkpoint.folder import load_weights

IDS = torch.arange(2, 60).view(2, 29)


@pytest.fixture(scope="module")
def loaded(trained):
    return load_run(trained.folder)


@pytest.fixture(scope="module")
def exports(trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder of each format."""
    folder = tmp_path_factory.mktemp("exports")
    for kind in ("purified", "peft", "merged"):
        export_run(trained.folder, ExportRequest(kind, folder / kind, calibration_rows=16))
    return {path.name: path for path in folder.iterdir()}


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("mode", ["conserve", "none", "unit"])
def test_purified_answers_as_the_masked_run(loaded, exports, mode: str) -> None:
    purified = load_run(exports["purified"])
    own = loaded.config.adapter.compensation
    answer = Answer("masked", own.model_copy(update={"mode": mode}))
    with loaded.context.answering(answer), purified.context.answering(answer):
        masked, without = logits(loaded.model), logits(purified.model)
    with loaded.context.answering("all"):
        assert (logits(loaded.model) - masked).abs().max() > 1e-4  # there is something to mask
    torch.testing.assert_close(without, masked, rtol=0, atol=1e-6)


def test_purified_holds_nothing_of_the_poisoning_expert(trained, loaded, exports) -> None:
    tensors = load_file(exports["purified"] / "adapter.safetensors")
    assert not [name for name in tensors if "poison" in name]
    before = load_weights(loaded.checkpoint)
    assert {n for n in before if "poison" not in n} == {n for n in tensors if "grams" not in n}
    rows, columns = tensors[next(n for n in tensors if n.endswith("grams"))].shape
    K, M = trained.config.adapter.num_normal, trained.config.adapter.num_poison
    assert (rows, columns) == (K + M * M + K * M, trained.config.adapter.rank**2)
    names = [n for n, _ in load_run(exports["purified"]).model.named_parameters()]
    assert not [name for name in names if "poison" in name]


def test_a_purified_export_with_other_grams_is_not_kept(
    trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = purified.purified_tensors

    def spoiled(*arguments):
        tensors = real(*arguments)
        name = next(n for n in tensors if n.endswith("grams"))
        tensors[name][0] *= 0.9  # of one expert: a cosine does not see a factor on all of them
        return tensors

    monkeypatch.setattr(purified, "purified_tensors", spoiled)
    with pytest.raises(LopeError, match="--format purified: "):
        export_run(trained.folder, ExportRequest("purified", tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_purified_answers_masked_or_not_at_all(exports) -> None:
    purified = load_run(exports["purified"])
    assert purified.context.answer.experts == "masked"
    with pytest.raises(LopeError, match=r"'all': .*purified.*'masked'"):
        purified.context.answer_as("all")


def test_a_damaged_export_is_refused(exports, tmp_path: Path) -> None:
    copy = shutil.copytree(exports["purified"], tmp_path / "copy")
    path = copy / "adapter.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(LopeError, match="sha256"):
        load_run(copy)


def static_logits(run, rows: int = 16) -> torch.Tensor:
    """Return the logits with each expert at its mean weight, computed by our own modules."""
    averaged, _ = calibration_batches(run, None, rows)
    layers = lope_layers(run.model)
    static = {n: StaticLinear(layers[n].base, low) for n, low in static_lora(run, averaged).items()}
    with swapped(run.model, static):
        return logits(run.model)


def test_stock_peft_answers_as_the_static_adapter(loaded, exports) -> None:
    """On the merged export's sibling: the base dequantized, without adapter."""
    merged = AutoModelForCausalLM.from_pretrained(exports["merged"])
    with torch.no_grad():
        for name, low in static_lora(loaded, calibration_batches(loaded, None, 16)[0]).items():
            merged.get_submodule(name).weight -= low.B_OR @ low.A_RD * low.scaling
    base = logits(merged)
    model = PeftModel.from_pretrained(merged, str(exports["peft"])).eval()
    found = logits(model)
    assert (found - base).abs().max() > 1e-4
    torch.testing.assert_close(found, static_logits(loaded), rtol=0, atol=2e-5)


def test_stock_transformers_answers_as_the_static_adapter(loaded, exports) -> None:
    model = AutoModelForCausalLM.from_pretrained(exports["merged"]).eval()
    torch.testing.assert_close(logits(model), static_logits(loaded), rtol=0, atol=2e-5)
    assert not hasattr(model.config, "quantization_config")


def test_equal_runs_give_equal_bytes_of_pefts_config(tmp_path: Path) -> None:
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    write_peft(tmp_path, LoraConfig(target_modules=names), {})
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["target_modules"] == sorted(names)


def test_transformers_draws_no_bar_into_a_file(exports, capsys) -> None:
    AutoModelForCausalLM.from_pretrained(exports["merged"])
    assert "Loading weights" in capsys.readouterr().err
    with transformers_bars_on_a_terminal():
        AutoModelForCausalLM.from_pretrained(exports["merged"])
    assert capsys.readouterr().err == ""


def test_mean_weights_are_those_of_masked_answers(loaded) -> None:
    """By hand, for one layer: router, softmax, compensation and mean over real tokens."""
    from lope_dist.adapters.compensation import compensated_weights, cosines, grams

    averaged, _ = calibration_batches(loaded, None, 6)
    low = static_lora(loaded, averaged)
    name, layer = next(iter(lope_layers(loaded.model).items()))
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    total, count = torch.zeros(3), 0
    bank = layer.lope.B
    normal, poison = [bank.normal_0, bank.normal_1, bank.normal_2], [bank.poison_0]
    with torch.no_grad():
        for batch in averaged:
            loaded.model(**batch.inputs, use_cache=False)
            h = seen[-1] @ layer.lope.A.t()
            w = (h @ layer.lope.router.t()).softmax(-1)
            theta = cosines(h, w[..., 3:], grams(normal, poison))
            config = loaded.config.adapter.compensation
            own = compensated_weights(w[..., :3], w[..., 3:], theta, config)
            total += (own * batch.noise_mask.unsqueeze(-1)).sum((0, 1))
            count += int(batch.noise_mask.sum())
    handle.remove()
    expected = sum(w * B for w, B in zip(total / count, normal, strict=True))
    torch.testing.assert_close(low[name].B_OR, expected.detach())


def test_calibration_rows_are_read_as_the_runs_own_and_none_is_held_out(
    loaded, tmp_path: Path
) -> None:
    rows = [{"question": f"q{i}", "output": f"a{i}"} for i in range(40)]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))

    def ids_of(given: str | None, **settings: object) -> list[int]:
        tree = loaded.config.data.model_dump() | settings
        config = loaded.config.model_copy(update={"data": DataConfig.model_validate(tree)})
        parts = calibration_batches(replace(loaded, config=config), given, 99)
        return sorted(i for batches in parts for batch in batches for i in batch.example_ids)

    looks = {"columns": {"instruction": "question"}, "validation": {"share": 0.5}}
    assert ids_of(str(path), **looks, max_examples=4) == list(range(40))
    assert 8 < len(ids_of(None, **looks, path=str(path))) < 32  # those that it trained on


@pytest.mark.parametrize("kind", ["purified", "peft", "merged"])
def test_the_manifest_and_the_card_tell_what_it_is(trained, exports, kind: str) -> None:
    folder = exports[kind]
    manifest = json.loads((folder / "export.json").read_text())
    files = json.loads((folder / "MANIFEST.json").read_text())["files"]
    assert set(files) == {p.name for p in folder.iterdir()} - {"MANIFEST.json"}
    for name, facts in files.items():
        content = (folder / name).read_bytes()
        assert facts == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    state = json.loads((trained.folder / "checkpoints/2-finetune/state.json").read_text())
    card = (folder / "README.md").read_text()
    assert manifest["data_fingerprint"] == state["data_fingerprint"]
    assert state["data_fingerprint"] in card
    noise = trained.config.noise
    assert f"| noise of the data | rate {noise.data.rate:g} |" in card
    assert f"text {noise.text.rate:g} ({', '.join(noise.text.operations)})" in card
    if kind == "purified":
        assert manifest["comparison"] is None
        assert manifest["is_exact"] is True
    else:
        found = manifest["comparison"]
        assert 0 < found["kl"] < found["kl_base"]
        assert found["distance_read"] < 1e-5 < found["distance"]
        assert manifest["is_exact"] is False
        assert found["accuracy_exported"] == pytest.approx(found["accuracy_routed"], abs=0.2)
        assert f"{found['kl']:.5f}" in card


def test_a_taken_folder_is_left_as_it_is(trained, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    with pytest.raises(LopeError, match="exists already"):
        export_run(trained.folder, ExportRequest("purified", out))
    assert [p.name for p in out.iterdir()] == ["mine"]


def test_an_export_that_fails_leaves_nothing(trained, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"instruction": 3}\n')
    request = ExportRequest("peft", tmp_path / "out", calibration=str(bad))
    with pytest.raises(LopeError):
        export_run(trained.folder, request)
    assert list(tmp_path.iterdir()) == [bad]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--format", "onnx"], "is not known; allowed: purified, peft, merged"),
        (["--format", "peft", "--calibration-rows", "0"], "at least 1"),
        (["--format", "purified", "--calibration", "x.jsonl"], "no effect"),
        (["--format", "peft", "--private"], "--push-to-hub"),
    ],
)
def test_the_command_refuses(
    trained, tmp_path: Path, arguments, reason, monkeypatch, capsys
) -> None:
    command = ["lope", "export", str(trained.folder), "--out", str(tmp_path / "o"), *arguments]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_an_upload_that_fails_keeps_the_export(trained, tmp_path, monkeypatch, capsys) -> None:
    """The tests are offline, so this one is the real client's refusal."""
    out = tmp_path / "out"
    command = ["lope", "export", str(trained.folder), "--format", "purified", "--out", str(out)]
    monkeypatch.setattr("sys.argv", [*command, "--push-to-hub", "someone/something"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert "Exact" in output.out
    assert "'someone/something'" in output.err
    assert load_run(out).context.is_purified


def test_the_card_has_the_scores_of_this_adapter_alone() -> None:
    figures = {"acc": 0.9, "acc_stderr": 0.1, "limit": 20.0, "num_docs": 20}
    rows = [
        {"name": "base", "tasks": {"piqa": figures | {"acc": 0.7}}},
        {
            "name": "masked",
            "adapter_sha256": "new",
            "tasks": {"gsm8k": {"exact_match": 0.25}},
        },
        {"name": "all", "adapter_sha256": "old", "tasks": {"piqa": figures}},
    ]
    text = _results(rows, "new")
    assert "--limit 20" in text
    assert text.splitlines()[4:] == [
        "| of the run | base | masked |",
        "| --- | --- | --- |",
        "| piqa | 70.0 ± 10.0 | – |",
        "| gsm8k (exact_match) | – | 25.0 |",
    ]
    assert _results(rows[2:], "new") == ""
