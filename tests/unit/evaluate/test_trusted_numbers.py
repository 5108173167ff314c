"""Numbers that were wrong without a word: each of these scored, and scored something else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lope_dist.config.adapter import AdapterConfig
from lope_dist.core.errors import LopeError
from lope_dist.evaluate.harness.arguments import tokenizer_with
from lope_dist.evaluate.harness.lm import LopeLM
from lope_dist.evaluate.loaded.load import load_run, load_run_config


def scored(run: Path, task_dir: Path, **settings: Any) -> dict[str, Any]:
    """Return what lm-eval's own entry makes of the task `tiny_choice`."""
    arguments = {"run": str(run)} | settings.pop("model_args", {})
    return lm_eval.simple_evaluate(
        model="lope",
        model_args=arguments,
        tasks=["tiny_choice"],
        task_manager=TaskManager(include_path=str(task_dir), include_defaults=False),
        batch_size=2,
        **settings,
    )  # pyright: ignore[reportReturnType]


def answers(result: dict[str, Any]) -> list[Any]:
    return [sample["filtered_resps"] for sample in result["samples"]["tiny_choice"]]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("adpater", "x", "'adpater' "),
        ("adapter", "x", "'adapter' "),
        ("expert", "none", r"'expert' .*'experts'\?"),
        ("dtype", "float16", r"--model_args dtype: .*run\.yaml"),
        ("peft", "x", r"--model_args peft: .*run\.yaml"),
        ("load_in_4bit", True, r"'load_in_4bit'"),
        ("trust_remote_code", True, r"--model_args trust_remote_code: .*run\.yaml"),
        ("tokenizer", "x", r"--model_args tokenizer: .*run\.yaml"),
        ("max_batch_size", 4, r"--model_args max_batch_size: .*run\.yaml"),
        ("parallelize", True, r"--model_args parallelize: .*run\.yaml"),
        ("device", "cuda", "--device cuda"),
        ("batch_size", "auto:4", "--batch-size"),
    ],
)
def test_arguments_that_would_change_nothing_are_refused(
    loaded, name: str, value: Any, message: str
) -> None:
    with pytest.raises(LopeError, match=message):
        LopeLM(loaded, "all", **{name: value})


def test_a_bos_token_is_added_where_the_tokenizer_can_and_refused_where_it_cannot(
    loaded, tmp_path: Path
) -> None:
    with pytest.raises(LopeError, match="add_bos_token"):  # the byte tokenizer has none
        LopeLM(loaded, "all", add_bos_token=True)
    lm = LopeLM(loaded, "all", add_bos_token=False)
    assert lm.tok_encode("ab") == loaded.tokenizer.encode("ab", add_special_tokens=False)
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    folder = tmp_path / "with_bos"
    shutil.copytree(loaded.config.model.name_or_path, folder)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.post_processor = TemplateProcessing(single="<eos> $A", special_tokens=[("<eos>", 256)])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<eos>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(folder)
    settings = loaded.config.model.model_copy(update={"name_or_path": str(folder)})
    with_bos = AutoTokenizer.from_pretrained(folder)
    changed = tokenizer_with({"add_bos_token": True}, with_bos, settings)
    assert changed.encode("a")[0] == 256


def test_a_cache_is_of_one_row_of_one_adapter(trained, task_dir: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    alone = {
        row: answers(scored(trained.folder, task_dir, model_args={"experts": row}))
        for row in ("base", "all")
    }
    assert alone["base"] != alone["all"]
    for _ in range(2):  # written, then read
        for row, expected in alone.items():
            settings = {"model_args": {"experts": row}, "use_cache": cache}
            assert answers(scored(trained.folder, task_dir, **settings)) == expected, row


def test_results_say_whose_they_are(trained, task_dir: Path) -> None:
    config = scored(trained.folder, task_dir)["config"]
    assert config["base"] == trained.config.model.name_or_path
    assert config["run"] == trained.folder.name
    assert config["experts"] == "masked"
    assert len(config["base_sha"]) == 32
    weights = 2 * 258 * 64 + 5 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
    assert config["base_parameters"] == weights
    adapter = 2 * 2 * (4 * 64 + 4 * 4) + 2 * 4 * 4 * (64 + 32)
    assert config["adapter_parameters"] == adapter
    assert config["model_num_parameters"] == weights + adapter


def test_a_run_answers_masked_where_nothing_is_said(trained) -> None:
    assert load_run(trained.folder).context.answer.experts == "masked"
    assert load_run(trained.folder, experts="all").context.answer.experts == "all"
    scaled = load_run(trained.folder, experts="all:scale=0.5").context.answer
    assert (scaled.experts, scaled.scale) == ("all", 0.5)
    with pytest.raises(LopeError, match="--experts: 'most'"):
        load_run(trained.folder, experts="most")


def test_what_masked_is_follows_the_run_and_an_old_run_keeps_its_own(run_copy: Path) -> None:
    assert AdapterConfig().compensation.mode == "none"
    file = run_copy / "run.yaml"
    recorded = yaml.safe_load(file.read_text())
    assert recorded["adapter"]["compensation"]["mode"] == "conserve", "every key is written"
    del recorded["adapter"]["compensation"]
    file.write_text(yaml.safe_dump(recorded))
    assert load_run_config(run_copy).lope_adapter("test").compensation.mode == "conserve"
    recorded["adapter"]["compensation"] = {"mode": "unit"}
    file.write_text(yaml.safe_dump(recorded))
    assert load_run_config(run_copy).lope_adapter("test").compensation.mode == "unit"
    recorded["adapter"]["compensation"] = {"mode": "none", "top_k": 2}  # once allowed
    file.write_text(yaml.safe_dump(recorded))
    assert load_run_config(run_copy).lope_adapter("test").compensation.top_k is None
