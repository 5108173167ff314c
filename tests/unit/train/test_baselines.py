"""What every method is held to: trained by the same loop, saved, resumed and asked alike."""

from __future__ import annotations

import shutil
from functools import reduce
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.architectures import save_tiny
from support.baselines import BASELINES, WITHOUT_POISON, roles_of
from support.quick import quick

from lope_dist.adapters.lope import model_roles
from lope_dist.adapters.prompts import VirtualTokens
from lope_dist.config.load import validate_config
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import Role
from lope_dist.core.runlog import read_json, read_lines
from lope_dist.evaluate.harness.lm import LopeLM
from lope_dist.evaluate.loaded.load import load_run
from lope_dist.evaluate.loaded.rows import rows_for
from lope_dist.export.run import ExportRequest, export_run
from lope_dist.train import session
from lope_dist.train.checkpoint.choice import choose_checkpoint

METHODS = BASELINES | WITHOUT_POISON
WATCHED = {"data__validation": {"share": 0.2}, "train__evaluate": {"every_steps": 2}}
IDS = torch.arange(30).view(2, 15) + 60


def config_of(config_in, folder: Path, name: str, **changes):
    """Return a configuration on the tiny model; sections are replaced whole, not merged."""
    adapter = METHODS[name]
    lr = 0.1 if name == "prefix_tuning" else 0.01  # its values begin at a standard deviation of 1
    stage = {"trainable": roles_of(adapter), "lr": lr, "max_steps": 14, "epochs": 2}
    tree = config_in(folder).model_dump(mode="json")
    tree["adapter"], tree["train"]["stages"] = adapter, {"finetune": stage}
    tree["data"]["packing"] = False
    for key, value in changes.items():
        *path, last = key.split("__")
        reduce(dict.__getitem__, path, tree)[last] = value
    return validate_config(tree, "test")


@pytest.fixture(
    scope="module",
    params=quick(METHODS, "adalora", "prefix_tuning", "hydralora_input"),
)
def run(request, config_in, tmp_path_factory):
    """A method's name, its run with a checkpoint every third step, and the model in memory."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    kept = {"every_steps": 3, "keep_last": 100}
    config = config_of(config_in, folder, request.param, train__checkpoint=kept)
    sessions = []
    with pytest.MonkeyPatch.context() as patch:
        load = session.load_session
        patch.setattr(session, "load_session", lambda it: sessions.append(load(it)) or sessions[0])
        session.train(config)
    return request.param, config, sessions[0]


def losses_of(folder: Path) -> list[float]:
    return [line["loss"] for line in read_lines(folder / "metrics.jsonl")]


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "1-finetune" / "adapter.safetensors")


def test_it_learns(run) -> None:
    losses = losses_of(run[2].run_dir)
    assert len(losses) == 14
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])


def test_its_roles_alone_are_trained_and_saved(run) -> None:
    _, config, trained = run
    base = load_file(Path(config.model.name_or_path) / "model.safetensors")
    roles = model_roles(trained.model)
    assert {n for n, role in roles.items() if role != Role.BASE} == set(adapter_of(trained.run_dir))
    described = read_json(trained.run_dir / "checkpoints" / "1-finetune" / "adapter.json")
    wanted = {str(role) for role in config.train.stages["finetune"].trainable}
    assert {t["role"] for t in described["tensors"].values()} == wanted
    for parameter in ("model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(trained.model.get_parameter(parameter), base[parameter])


@torch.no_grad()
def test_a_loaded_run_answers_as_the_model_that_was_trained(run) -> None:
    trained = run[2]
    loaded = load_run(trained.run_dir)
    own = trained.model.eval()(IDS).logits
    assert torch.equal(loaded.model(IDS).logits, own)
    with loaded.context.answering("none"):
        assert not torch.equal(loaded.model(IDS).logits, own)


def test_lm_eval_asks_it_with_and_without_its_adapter(run) -> None:
    loaded = load_run(run[2].run_dir)
    lm = LopeLM(loaded, batch_size=2)  # `all`, where nothing is to be masked
    logits = {}
    for row in rows_for(["all", "none"], loaded.config.adapter):
        lm.choose(row)
        logits[row.name] = lm._model_call(IDS)
    assert logits["base"].shape == logits["all"].shape
    with pytest.raises(LopeError, match=r"--experts masked: .*--experts all"):
        rows_for(["masked"], loaded.config.adapter)
    if run[0] in BASELINES:
        with pytest.raises(LopeError, match=r"--experts all:scale=.*adapter.kind = "):
            rows_for(["all:scale=0.5"], loaded.config.adapter)


@pytest.mark.parametrize("step", [3, 12])
def test_a_resumed_run_equals_the_uninterrupted_one(run, tmp_path: Path, step: int) -> None:
    """AdaLoRA prunes at 3, and its ranks are final at 12."""
    _, config, trained = run
    folder = Path(shutil.copytree(trained.run_dir, tmp_path / "run"))
    for path in (folder / "checkpoints").iterdir():
        if path.name != f"1-finetune-step-{step:06d}":
            shutil.rmtree(path)
    session.train(config.model_copy(update={"output_dir": str(folder)}), resume=True)
    assert losses_of(folder) == losses_of(trained.run_dir)
    wanted, found = adapter_of(trained.run_dir), adapter_of(folder)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_adalora_keeps_its_target_of_ranks(config_in, tmp_path: Path) -> None:
    folder = session.train(config_of(config_in, tmp_path / "run", "adalora"))
    with pytest.raises(LopeError, match="AdaLoRA's ranks are final only at the end; take 'last'"):
        choose_checkpoint(folder, "best")
    ranks = [int((t != 0).sum()) for n, t in adapter_of(folder).items() if "lora_E" in n]
    assert sum(ranks) == 2 * len(ranks)
    assert len(set(ranks)) > 1, "every layer got the same rank, as without importance"


@pytest.mark.thorough
def test_the_regulariser_keeps_adaloras_matrices_orthogonal(config_in, tmp_path: Path) -> None:
    far = {}
    for weight in (0.0, 0.5):
        adapter = METHODS["adalora"] | {"orthogonality": weight}
        folder = tmp_path / str(weight)
        session.train(config_of(config_in, folder, "adalora", adapter=adapter))
        norms = [
            (t @ t.t() - torch.eye(4)).norm()
            for n, t in adapter_of(folder).items()
            if "lora_A" in n
        ]
        far[weight] = float(sum(norms))
    assert far[0.5] < 0.9 * far[0.0]


@pytest.mark.parametrize(
    ("name", "model_type", "reason"),
    [
        ("prefix_tuning", "deepseek_v3", "Sizes of tensors"),  # of its keys and its values
        ("p_tuning_mlp", "gemma3", "masks are made before"),
    ],
)
def test_a_model_that_cannot_run_with_virtual_tokens_ends_the_run(
    config_in, tmp_path: Path, name: str, model_type: str, reason: str
) -> None:
    model = str(save_tiny(tmp_path / "model", model_type))
    config = config_of(config_in, tmp_path / "run", name, model__name_or_path=model)
    kind = METHODS[name]["kind"]
    with pytest.raises(LopeError, match=rf"'{kind}'.* {model_type} .*{reason}.*'adalora'"):
        session.train(config)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_model_that_takes_no_notice_of_virtual_tokens_ends_the_run(
    config_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VirtualTokens, "_enter", lambda self, decoder, args, kwargs: (args, kwargs))
    with pytest.raises(LopeError, match=r"'prefix_tuning'.* llama .*change none"):
        session.train(config_of(config_in, tmp_path / "run", "prefix_tuning"))


def test_noise_reaches_a_baseline_too(config_in, tmp_path: Path) -> None:
    losses = []
    for noise in ("none", "embedding"):
        stages = {"finetune": {"trainable": ["adapter"], "noise": noise, "max_steps": 1}}
        config = config_of(config_in, tmp_path / noise, "p_tuning", train__stages=stages)
        losses.append(losses_of(session.train(config)))
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("p_tuning", {"data__packing": True}, "data.packing = .*adapter.kind = 'p_tuning'"),
        (
            "prefix_tuning",
            {"model__gradient_checkpointing": True},
            "model.gradient_checkpointing = .*adapter.kind = 'prefix_tuning'",
        ),
        (
            "adalora",
            {"train__stages__more": {"trainable": ["adapter"]}},
            "train.stages .*adapter.kind = 'adalora'",
        ),
        (
            "adalora",
            WATCHED | {"train__keep_best": "all"},
            r"train\.keep_best .*'adalora'.*adapter\.target_rank",
        ),
        (
            "adalora",
            WATCHED | {"train__early_stopping": {"patience": 1}},
            r"train\.early_stopping .*'adalora'.*adapter\.target_rank",
        ),
        (
            "adalora",
            {"train__stages__finetune__trainable": ["normal_b"]},
            "'normal_b'.*'adalora'",
        ),
        (
            "lora",
            {"train__stages__finetune__trainable": ["adapter"]},
            "'adapter'.*'lope'",
        ),
    ],
)
def test_what_cannot_be_is_refused(config_in, tmp_path, name, changes, told) -> None:
    with pytest.raises(LopeError, match=told):
        config_of(config_in, tmp_path, name, **changes)


def test_an_export_of_a_baseline_is_refused(config_in, tmp_path: Path) -> None:
    stages = {"finetune": {"trainable": ["adapter"], "max_steps": 1}}
    config = config_of(config_in, tmp_path / "run", "adalora", train__stages=stages)
    with pytest.raises(LopeError, match=r"adapter.kind = 'adalora'"):
        export_run(session.train(config), ExportRequest("peft", tmp_path / "out"))


def test_p_tuning_recomputes_activations_to_the_same_losses(config_in, tmp_path: Path) -> None:
    losses = []
    for recomputes in (False, True):
        stages = {"finetune": {"trainable": ["adapter"], "lr": 0.01, "max_steps": 3}}
        changes = {"train__stages": stages, "model__gradient_checkpointing": recomputes}
        config = config_of(config_in, tmp_path / str(recomputes), "p_tuning", **changes)
        losses.append(losses_of(session.train(config)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
