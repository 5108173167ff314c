"""What is read off a model: its attention, dropout, head, targets, streams and parts."""

import pytest
import torch
from support.architectures import SHAPES, tiny_arch
from torch import nn
from transformers import AutoConfig

from lope_dist.adapters.targets import ALL_LINEAR, find_targets, linear_layers
from lope_dist.config.model import ModelConfig
from lope_dist.core.errors import LopeError
from lope_dist.model.build import build_meta_model, decide_head
from lope_dist.model.families import family_of
from lope_dist.model.loss_head import loss_head
from lope_dist.model.nf4 import NF4Linear
from lope_dist.model.quantization import quantization_of
from lope_dist.model.tokenizer_fit import check_tokenizer


def build(model_type: str, changes=(), **settings):
    config = ModelConfig(**{"name_or_path": "x", "quantization": "none"} | settings)
    return build_meta_model(config, tiny_arch(model_type, **dict(changes)))


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "bart"])
def test_auto_is_the_fastest_attention_that_a_model_has(name: str) -> None:
    without = name in ("gemma2", "mamba2", "mpt")
    assert build(name).config._attn_implementation == ("eager" if without else "sdpa")


def test_a_wrong_attention_is_told_with_its_key_and_what_is_allowed() -> None:
    with pytest.raises(LopeError, match=r"model\.attention = 'sdpa' .*allowed here: auto, eager\."):
        build("gemma2", attention="sdpa")
    with pytest.raises(LopeError, match=r"'flash_attention_2' .*flash-attn"):
        build("llama", attention="flash_attention_2")
    with pytest.raises(LopeError, match=r"'flash_attention_2'"):
        build("mamba2", attention="flash_attention_2")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gpt2", {"embd_pdrop": 0.3, "attn_pdrop": 0.3}),
        ("opt", {"layerdrop": 0.5, "dropout": 0.3}),
        ("llama", {"attention_dropout": 0.3}),
        ("bart", {"encoder_layerdrop": 0.5, "activation_dropout": 0.3}),
        ("qwen2_vl", {}),
    ],
)
def test_no_dropout_is_left_whatever_its_name(name: str, changes: dict) -> None:
    model = build(name, changes)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout) and m.p] == []
    left = {
        f"{type(module).__name__}.{key}": value
        for module in model.modules()
        for key, value in vars(module).items()
        if "drop" in key and isinstance(value, float) and value
    }
    assert left == {}


def test_a_dropout_of_a_modules_own_is_off_too() -> None:
    from lope_dist.model.dropout import switch_off_dropout

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.resid_pdrop, self.router_jitter_noise, self.eps = 0.1, 0.01, 0.1
            self.inner = nn.Dropout2d(0.2)

    mixer = Mixer()
    switch_off_dropout(mixer)
    assert (mixer.resid_pdrop, mixer.eps, mixer.inner.p) == (0.0, 0.1, 0.0)


def test_what_holds_jitter_never_trains_and_keeps_its_width() -> None:
    """PhiMoE's router masks by that width in evaluation too, and draws while it trains."""
    from transformers import PhimoeConfig, PhimoeForCausalLM

    from lope_dist.model.dropout import switch_off_dropout, without_dropout

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    experts = {"num_local_experts": 4, "router_jitter_noise": 0.3, "input_jitter_noise": 0.3}
    arch = PhimoeConfig(
        vocab_size=30, num_hidden_layers=1, num_key_value_heads=2, **sizes, **experts
    )
    model = PhimoeForCausalLM(arch).eval()
    ids = torch.arange(1, 21).view(1, -1)
    expected = model(ids).logits
    without_dropout(model.config)
    switch_off_dropout(model)
    assert torch.equal(model(ids).logits, expected)
    model.train()
    assert model.model.layers[0].training
    assert torch.equal(model(ids).logits, expected)


@pytest.mark.parametrize("name", list(SHAPES))
def test_a_head_computes_the_loss_where_its_answer_is_the_logits(name: str) -> None:
    changes_its_logits = name in ("gemma2", "gemma3n_text", "granite", "cohere", "bart")
    assert (loss_head(build(name)) is None) == changes_its_logits


def test_a_bias_behind_the_head_is_seen() -> None:
    """BART adds one to its logits; zeros too would make many losses of one."""
    model = build("bart")
    for value in (0.0, 0.5):
        model.final_logits_bias.fill_(value)
        decide_head(model)
        assert loss_head(model) is None
        assert "forward" not in vars(model.get_output_embeddings())


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("llama", ("q_proj", "v_proj")),
        ("phi3", ("qkv_proj",)),
        ("gpt2", ("c_attn",)),
        ("qwen3_5_text", ("in_proj_qkv", "q_proj", "v_proj")),
        ("mamba2", ("in_proj",)),
        ("qwen2_vl", ("q_proj", "v_proj")),
    ],
)
def test_default_targets_are_of_the_models_structure(name: str, targets: tuple) -> None:
    assert family_of(build(name)).targets == targets


def test_targets_may_be_patterns_or_all() -> None:
    model = build("llama")
    last = find_targets(model, ["model.layers.[1-9].*.*_proj"])
    assert len(last) == 7
    assert all(name.startswith("model.layers.1.") for name in last)
    every = find_targets(model, [ALL_LINEAR])
    assert len(every) == 14
    assert "lm_head" not in every
    assert "lm_head" in find_targets(model, ["q_proj", "lm_head"])
    with pytest.raises(LopeError, match=r"'\*\.q_prj'"):
        find_targets(model, ["*.q_prj"])


def test_parts_that_read_no_text_are_never_adapted() -> None:
    model = build("qwen2_vl")
    assert family_of(model).untrained == ("model.visual",)
    assert all("visual" not in name for name in find_targets(model, [ALL_LINEAR]))
    with pytest.raises(LopeError, match="'qkv'"):
        find_targets(model, ["qkv"])


def test_streams_of_an_encoder_decoder() -> None:
    family = family_of(build("bart"))
    assert family.stream_of("model.encoder.layers.0.self_attn.q_proj") == "encoder"
    assert family.stream_of("model.decoder.layers.0.self_attn.v_proj") == "decoder"
    assert family.stream_of("model.decoder.layers.0.encoder_attn.v_proj") == "encoder"
    assert family.stream_of("model.decoder.layers.0.encoder_attn.q_proj") == "decoder"


SIZES = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 258}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 257}


def test_default_targets_leave_out_what_a_decoder_only_model_reads_of_images() -> None:
    """Llama 3.2 Vision skips the layers of its cross-attention where there are no images."""
    text = SIZES | {"cross_attention_layers": [1]}
    arch = AutoConfig.for_model("mllama", text_config=text)
    model = build_meta_model(ModelConfig(name_or_path="x"), arch)
    targets = family_of(model).targets
    assert targets == ("self_attn.q_proj", "self_attn.v_proj")
    layers = [f"model.layers.0.{target}" for target in targets]
    assert list(find_targets(model, targets)) == layers
    assert "model.layers.1.cross_attn.q_proj" in find_targets(model, ["q_proj"])


def test_towers_inside_the_decoder_read_no_text() -> None:
    """Phi-4-multimodal's decoder is the whole model, with images and sound."""
    images = {"intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    images |= {"hidden_size": 64, "image_size": 28, "patch_size": 14}
    sound = {"hidden_size": 64, "intermediate_size": 64, "num_blocks": 1, "num_attention_heads": 2}
    towers = {"vision_config": images, "audio_config": sound}
    rotary = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    config = ModelConfig(name_or_path="x")
    arch = AutoConfig.for_model("phi4_multimodal", **SIZES, **towers, **rotary)
    model = build_meta_model(config, arch)
    family = family_of(model)
    assert (family.targets, family.untrained) == (("qkv_proj",), ("model.embed_tokens_extend",))
    assert quantization_of(model, config).exempt["parts that read no text"]
    assert not any("extend" in name for name in find_targets(model, [ALL_LINEAR]))


def test_towers_inside_the_encoder_read_no_text() -> None:
    """T5Gemma 2's encoder holds its text model beside that of images and a projector."""
    text = SIZES | {"head_dim": 32, "sliding_window": 16}
    images = {"intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    images |= {"hidden_size": 64, "image_size": 28, "patch_size": 14}
    encoder = {"text_config": text, "vision_config": images, "mm_tokens_per_image": 4}
    arch = AutoConfig.for_model("t5gemma2", encoder=encoder, decoder=text)
    linear = linear_layers(build_meta_model(ModelConfig(name_or_path="x"), arch))
    assert "model.encoder.text_model.layers.0.self_attn.q_proj" in linear
    assert not any("vision" in name or "projector" in name for name in linear)


def test_a_router_of_several_layers_is_a_router() -> None:
    """ZAYA1's first multiplies with `down_proj`, and an MLP of its own chooses."""
    experts = {"num_experts": 4, "moe_intermediate_size": 64, "router_hidden_size": 64}
    experts |= {"head_dim": 32}
    config = ModelConfig(name_or_path="x")
    model = build_meta_model(config, AutoConfig.for_model("zaya", **SIZES, **experts))
    router = model.get_submodule("model.layers.0.mlp.gate")
    linear = [layer for layer in router.modules() if isinstance(layer, nn.Linear)]
    assert len(linear) == 4
    assert not any(isinstance(layer, NF4Linear) for layer in linear)
    assert not any(".gate." in name for name in find_targets(model, [ALL_LINEAR]))


def test_a_token_beyond_the_embedding_is_told(tiny_llama) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = build("llama")
    check_tokenizer(tokenizer, model, "x")
    tokenizer.add_tokens(["<call>"])
    with pytest.raises(LopeError, match=r"'<call>' \(258\), .* 258 rows"):
        check_tokenizer(tokenizer, model, "x")


def test_the_loss_of_a_scaled_head_is_transformers_own() -> None:
    """Granite divides its logits: its head must not answer in their place."""
    from lope_dist.train.objective import summed_loss, targets_of

    for name in ("granite", "phi3", "gpt2", "gemma3_text"):
        model = build(name, dtype="float32")
        _fill(model)
        ids = torch.arange(1, 25).view(2, 12)
        loss = summed_loss(
            lambda model=model, ids=ids: model(input_ids=ids, use_cache=False),
            loss_head(model),
            targets_of(ids, shift=True),
            torch.device("cpu"),
        )
        own = model(input_ids=ids, labels=ids, use_cache=False).loss
        torch.testing.assert_close(loss / 22, own, rtol=1e-5, atol=0)


def _fill(model: nn.Module) -> None:
    torch.manual_seed(0)
    made: dict[nn.Parameter, nn.Parameter] = {}  # tied ones stay tied
    for part in model.modules():
        for key, old in part.named_parameters(recurse=False):
            values = torch.randn(old.shape) * 0.2
            made.setdefault(old, nn.Parameter(values, requires_grad=False))
            setattr(part, key, made[old])
    model.eval()
