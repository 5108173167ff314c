"""What is proved on the loaded model before step 0, and what a run makes of it."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from support.architectures import save_tiny
from support.quick import quick
from support.tiny import save_byte_tokenizer
from transformers import AutoConfig, MllamaForConditionalGeneration

from lope_dist.config.load import validate_config
from lope_dist.core.errors import LopeError
from lope_dist.train import session
from lope_dist.train.premises import preflight
from lope_dist.train.premises.preflight import _check_recomputation
from lope_dist.train.run import settle
from lope_dist.train.session import train


@pytest.fixture
def make(tmp_path: Path, alpaca_file):
    def config(model_type: str, name: str = "run", model=None, **changes):
        folder = tmp_path / model_type
        if not folder.exists():
            save_tiny(folder, model_type, **(model or {}))
        tree = {
            "output_dir": str(tmp_path / name),
            "model": {"name_or_path": str(folder), "dtype": "float32", "quantization": "none"},
            "adapter": {"rank": 2, "dropout": 0.0, "targets": changes.pop("targets", [])},
            "data": {"path": str(alpaca_file), "max_length": 512, **changes.pop("data", {})},
            "train": {
                "global_batch": 8,
                "micro_batch": 2,
                "stages": {
                    "one": {"trainable": ["shared_a", "normal_b"], "lr": 0.01, "max_steps": 2}
                },
                **changes,
            },
            "engine": {"kind": "local"},
        }
        return validate_config(tree, "test")

    return config


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


LEAKING = ("opt", "qwen3_5_text", "mamba2", "qwen2_vl")
ISOLATED = ("gemma3_text", "mistral", "gpt2", "phi3", "gemma2")


@pytest.mark.parametrize("name", quick([*LEAKING, *ISOLATED], "opt", "gemma3_text"))
def test_packing_is_on_where_it_changes_no_loss_and_off_elsewhere(
    make, name: str, capsys, monkeypatch
) -> None:
    folder = train(make(name))
    packs = yaml.safe_load((folder / "run.yaml").read_text())["data"]["packing"]
    told = capsys.readouterr().err
    apart = losses(train(make(name, "apart", data={"packing": False})))
    assert packs is (name in ISOLATED)
    assert losses(folder)[0] == pytest.approx(apart[0], abs=1e-5)
    (start,) = json.loads((folder / "manifest.json").read_text())["starts"]
    assert start["premises"]["packing"].startswith("on: " if packs else "off: in this ")
    assert ("data.packing is off: " in told) is not packs
    if not packs:
        with pytest.raises(LopeError, match=r"data\.packing = true, "):
            train(make(name, "asked", data={"packing": True}))
        monkeypatch.setattr(settle, "prove_packing", lambda session: None)
        leaked = losses(train(make(name, "leaked")))
        assert abs(leaked[0] - apart[0]) > 1e-5, "the models of the test must leak visibly"


def test_training_with_the_proofs_is_training_without_them(make, monkeypatch) -> None:
    proved = train(make("mistral", data={"packing": True}))
    monkeypatch.setattr(settle, "prove_packing", lambda session: None)
    monkeypatch.setattr(settle, "prove_repeatable", lambda session: None)
    plain = train(make("mistral", "plain", data={"packing": True}))
    assert losses(proved) == losses(plain)
    for file in ("checkpoints/1-one/adapter.safetensors", "router.json"):
        assert (proved / file).read_bytes() == (plain / file).read_bytes()


def test_a_resume_keeps_what_was_settled(make, monkeypatch) -> None:
    """Even where it would choose otherwise today; what it must not do is to go on with a leak."""
    config = make("mistral", checkpoint={"every_steps": 1})
    folder = train(config)
    settled = (folder / "run.yaml").read_text()
    assert "attention: sdpa" in settled
    shutil.rmtree(folder / "checkpoints" / "1-one")
    with monkeypatch.context() as today:
        today.setattr(settle, "prove_packing", lambda session: "it leaks today")
        with pytest.raises(LopeError, match="it leaks today; go on with the libraries"):
            train(config, resume=True)
    monkeypatch.setattr("lope_dist.model.build.choose_attention", _always_eager)
    train(config, resume=True)
    assert (folder / "run.yaml").read_text() == settled
    own = yaml.safe_load((folder / "checkpoints" / "1-one" / "run.yaml").read_text())
    assert (own["data"]["packing"], own["model"]["attention"]) == (True, "sdpa")


def test_a_resume_does_not_mix_the_examples_of_several_rows_by_flash_attention(
    make, monkeypatch
) -> None:
    """As on a GPU, where a run of one row a micro-batch goes on with more."""
    config = make("mistral", checkpoint={"every_steps": 1}, micro_batch=1)
    folder = train(config)
    shutil.rmtree(folder / "checkpoints" / "1-one")
    monkeypatch.setattr(settle, "read_recorded", _with_flash_attention)
    larger = config.train.model_copy(update={"micro_batch": 4})
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(LopeError, match=r"micro_batch = 4 .*apart only in a batch of one row"):
        train(config.model_copy(update={"train": larger}), resume=True)
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("num_shared", [1, 0])
def test_layers_that_share_keys_and_values_are_not_recomputed(num_shared: int) -> None:
    shape = {"num_hidden_layers": 2, "num_kv_shared_layers": num_shared}
    arch = AutoConfig.for_model("gemma4_text", **shape)
    config = SimpleNamespace(model=SimpleNamespace(gradient_checkpointing=True))
    if not num_shared:
        return _check_recomputation(config, arch)
    with pytest.raises(LopeError, match=r"gemma4_text, whose last 1 .*checkpointing=false"):
        _check_recomputation(config, arch)
    config.model.gradient_checkpointing = False
    return _check_recomputation(config, arch)


def test_layers_that_read_each_other_without_a_word_in_the_config_are_found(
    make, monkeypatch
) -> None:
    shape = {
        "num_hidden_layers": 3,
        "num_kv_shared_layers": 1,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "activation_sparsity_pattern": [0.0] * 3,
    }
    recomputed = {"gradient_checkpointing": True}
    config = make("gemma3n_text", model=shape, targets=["q_proj"])
    train(config)
    monkeypatch.setattr(preflight, "num_sharing_layers", lambda arch: 0)
    tree = config.model_dump(mode="json")
    tree |= {"output_dir": f"{config.output_dir}_2", "model": tree["model"] | recomputed}
    reads = r"layers\.2' of this gemma3n_text model reads what 'model\.layers\.1' computed"
    with pytest.raises(LopeError, match=reads):
        train(validate_config(tree, "test"))


LONG_ROPE = {
    "original_max_position_embeddings": 64,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
    },
}


def _with_flash_attention(content: bytes):
    tree = yaml.safe_load(content)
    tree["model"]["attention"] = "flash_attention_2"
    return tree


def _always_eager(wanted, *_, **__):
    return "eager" if wanted == "auto" else wanted


def test_a_dropout_that_nobody_knows_ends_the_run(make, monkeypatch) -> None:
    from transformers.models.mistral.modeling_mistral import MistralMLP

    forward = MistralMLP.forward

    def noisy(self, x):
        y = forward(self, x)
        return y * (1 + 0.1 * torch.randn_like(y)) if self.training else y

    monkeypatch.setattr(MistralMLP, "forward", noisy)
    config = make("mistral")
    state = torch.get_rng_state()
    with pytest.raises(LopeError, match=r"training mode .*config\.json"):
        train(config)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_a_model_raises_over_text_alone_is_one_sentence(make, monkeypatch) -> None:
    """As Molmo 2 does while it trains."""
    from transformers.models.mistral.modeling_mistral import MistralMLP

    forward = MistralMLP.forward

    def asking(self, x):
        if self.training:
            raise ValueError("mm_token_type_ids is required")
        return forward(self, x)

    monkeypatch.setattr(MistralMLP, "forward", asking)
    with pytest.raises(LopeError, match=r"mistral model .*text alone \(.*mm_token_type_ids"):
        train(make("mistral"))


def test_images_cross_attention_is_no_default_target(make, tmp_path: Path) -> None:
    """Of Llama 3.2 Vision, whose layers with it are skipped where there are no images."""
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 258}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "cross_attention_layers": [1]}
    images = {"num_hidden_layers": 1, "num_global_layers": 1, "intermediate_layers_indices": [0]}
    images |= {"hidden_size": 32, "intermediate_size": 32, "attention_heads": 2, "image_size": 28}
    images |= {"vision_output_dim": 64, "max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]]}
    tokens = {"bos_token_id": 0, "eos_token_id": 256, "pad_token_id": 257}
    arch = AutoConfig.for_model("mllama", text_config=text | tokens, vision_config=images)
    MllamaForConditionalGeneration(arch).save_pretrained(tmp_path / "mllama")
    save_byte_tokenizer(tmp_path / "mllama")
    folder = train(make("mllama"))
    assert yaml.safe_load((folder / "run.yaml").read_text())["data"]["packing"] is True


def test_long_examples_that_change_short_ones_are_not_packed(make, capsys) -> None:
    """A resume would be refused: the run began packed, and the proof's examples are short."""
    config = make("phi3", model=LONG_ROPE, micro_batch=1)
    folder = train(config)
    assert yaml.safe_load((folder / "run.yaml").read_text())["data"]["packing"] is False
    assert "changes the positions of others" in capsys.readouterr().err


def test_a_layer_that_is_not_called_ends_the_run(make, monkeypatch) -> None:
    from transformers.models.mistral.modeling_mistral import MistralMLP

    def past(self, x):
        return torch.nn.functional.linear(self.up_proj(x), self.down_proj.weight)

    monkeypatch.setattr(MistralMLP, "forward", past)
    with pytest.raises(LopeError, match=r"'model\.layers\.0\.mlp\.down_proj' .*nothing"):
        train(make("mistral", targets=["down_proj"]))


def test_the_head_may_have_an_adapter(make) -> None:
    for tied in (True, False):
        name = "tied" if tied else "untied"
        model = {"tie_word_embeddings": tied}
        config = make("llama", name, model=model, targets=["q_proj", "lm_head"])
        folder = train(config)
        assert (folder / "checkpoints" / "1-one").is_dir()
        import shutil

        shutil.rmtree(config.model.name_or_path)


def test_an_encoder_decoder_trains_and_its_streams_are_what_is_read(make, monkeypatch) -> None:
    folder = train(make("bart"))
    assert yaml.safe_load((folder / "run.yaml").read_text())["data"]["packing"] is False
    from lope_dist.train.premises import preflight

    true = preflight.family_of

    def wrong(model):
        return SimpleNamespace(**vars(true(model)) | {"stream_of": lambda name: "decoder"})

    monkeypatch.setattr(preflight, "family_of", wrong)
    with pytest.raises(LopeError, match=r"decoder's input"):
        train(make("bart", "wrong"))


def test_a_token_beyond_the_embedding_ends_the_run(make) -> None:
    from transformers import AutoTokenizer

    config = make("llama")
    tokenizer = AutoTokenizer.from_pretrained(config.model.name_or_path)
    tokenizer.add_tokens(["<call>"])
    tokenizer.save_pretrained(config.model.name_or_path)
    with pytest.raises(LopeError, match="embedding"):
        train(config)
    assert not Path(config.output_dir).exists()


def test_weights_are_there_before_ranks_wait_for_each_other(
    make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first download may take longer than `engine.timeout_s`."""
    order: list[str] = []
    monkeypatch.setattr(session, "model_folder", lambda config: order.append("weights"))

    def start_world(engine):
        order.append("world")
        raise LopeError("far enough")

    monkeypatch.setattr(session, "start_world", start_world)
    with pytest.raises(LopeError, match="far enough"):
        train(make("mistral"))
    assert order == ["weights", "world"]
