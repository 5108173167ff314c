from pathlib import Path

import torch

from lope_dist.config.load import load_config
from lope_dist.model.build import architecture, build_meta_model
from lope_dist.model.nf4 import NF4Linear


def test_llama2_70b_on_meta_has_every_tensor_of_its_checkpoint(repository: Path) -> None:
    config = load_config(repository / "configs/recipes/llama2_70b_alpaca.yaml").model
    model = build_meta_model(config, architecture(config))
    layer = ["input_layernorm", "post_attention_layernorm"]
    layer += [f"self_attn.{name}_proj" for name in "qkvo"]
    layer += [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    expected = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    expected |= {f"model.layers.{i}.{name}.weight" for i in range(80) for name in layer}
    parameters = dict(model.named_parameters())
    assert set(parameters) == expected
    assert all(parameter.device == torch.device("meta") for parameter in parameters.values())
    quantized = [m for m in model.modules() if isinstance(m, NF4Linear)]
    assert len(quantized) == 80 * 7
    assert sum(m.in_features * m.out_features for m in quantized) == 68_451_041_280
