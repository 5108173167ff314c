"""The whole configuration of a run and the checks that cross sections."""

from __future__ import annotations

from typing import Any

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from lope_dist.config.adapter import AdapterConfig
from lope_dist.config.base import Section
from lope_dist.config.baselines import AdaLoraConfig, AnyAdapterConfig, PromptConfig
from lope_dist.config.data import DataConfig
from lope_dist.config.engine import EngineConfig
from lope_dist.config.model import ModelConfig
from lope_dist.config.noise import NoiseConfig
from lope_dist.config.routing import ROUTING_OPTIONS, missing_for_routing
from lope_dist.config.train import StageConfig, TrainConfig, baseline_stages, default_stages
from lope_dist.config.validation import Answer, absent_expert, is_trained, usual_answers
from lope_dist.core.errors import LopeError
from lope_dist.core.roles import ADAPTER_ROLES, Role

_ADAPTER: TypeAdapter[Any] = TypeAdapter(AnyAdapterConfig)


class RunConfig(Section):
    """All settings of a run. A run writes them to `run.yaml` in its folder."""

    output_dir: str
    """The run's folder; a relative path starts at the working directory."""
    seed: int = Field(default=614, ge=0)
    """Seed of all randomness."""
    model: ModelConfig
    """The frozen base model."""
    adapter: AnyAdapterConfig = AdapterConfig()
    """What is added to it."""
    noise: NoiseConfig = NoiseConfig()
    """What is injected."""
    data: DataConfig
    """What it learns from."""
    train: TrainConfig
    """How it learns."""
    engine: EngineConfig = EngineConfig()
    """On what."""

    def lope_adapter(self, asker: str) -> AdapterConfig:
        """Return the adapter's settings for what works on LoPE's layers alone.

        Raises:
            LopeError: a baseline's adapter; names the ``asker``.
        """
        if not isinstance(self.adapter, AdapterConfig):
            raise LopeError(
                f"{asker} works on LoPE's layers (also as LoRA and HydraLoRA), and this "
                f"configuration has adapter.kind = '{self.adapter.kind}'; use one of kind 'lope'."
            )
        return self.adapter

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The rows of experts whose loss is taken on the validation rows."""
        return self.train.evaluate.experts or usual_answers(self.adapter)

    @property
    def watched(self) -> Answer:
        """The row of experts by whose loss checkpoints are compared and stages ended."""
        return self.train.keep_best or self.answers[0]

    @model_validator(mode="before")
    @classmethod
    def _default_stages_fit_the_adapter(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        train = tree.get("train") or {}
        if not isinstance(train, dict) or "stages" in train:
            return tree
        try:
            adapter = _ADAPTER.validate_python(tree.get("adapter", {}))
        except ValidationError:
            adapter = AdapterConfig()  # told when the adapter's own turn comes
        stages = baseline_stages()
        if isinstance(adapter, AdapterConfig):
            stages = default_stages(adapter.num_normal, adapter.num_poison)
        return tree | {"train": train | {"stages": stages}}

    @model_validator(mode="after")
    def _a_given_template_is_used(self) -> RunConfig:
        if self.model.chat_template is not None and self.data.template != "chat":
            raise ValueError(
                f"model.chat_template has no effect with data.template = '{self.data.template}'; "
                "set data.template=chat"
            )
        return self

    def why_flash_attention_mixes_examples(self) -> str | None:
        """Return why packed examples would attend to each other, and what to do; else None."""
        rows = self.train.micro_batch
        is_flash = self.model.attention == "flash_attention_2"
        if not is_flash or self.data.packing is not True or rows == 1:
            return None
        return (
            f"train.micro_batch = {rows} with data.packing and model.attention = "
            "'flash_attention_2', which keeps packed examples apart only in a batch of one row; "
            "set train.micro_batch=1 (and a larger data.max_length), data.packing=false or "
            "model.attention=sdpa"
        )

    @model_validator(mode="after")
    def _flash_attention_packs_one_row(self) -> RunConfig:
        if reason := self.why_flash_attention_mixes_examples():
            raise ValueError(reason)
        return self

    @model_validator(mode="after")
    def _virtual_tokens_stand_before_one_example(self) -> RunConfig:
        adapter = self.adapter
        if not isinstance(adapter, PromptConfig):
            return self
        if self.data.packing is True:
            raise ValueError(
                f"data.packing = true with adapter.kind = '{adapter.kind}': its virtual tokens "
                "stand before a row, not before each example packed into it; set "
                "data.packing=false"
            )
        if adapter.kind == "prefix_tuning" and self.model.gradient_checkpointing:
            raise ValueError(
                "model.gradient_checkpointing = true with adapter.kind = 'prefix_tuning': layers "
                "that are computed again drop the keys and values that the prefix is made of; set "
                "model.gradient_checkpointing=false"
            )
        return self

    @model_validator(mode="after")
    def _ranks_are_allocated_over_one_stage(self) -> RunConfig:
        if isinstance(self.adapter, AdaLoraConfig) and len(self.train.stages) > 1:
            raise ValueError(
                f"train.stages has {len(self.train.stages)} stages with adapter.kind = 'adalora', "
                "which cuts its ranks once over one stage; leave one stage"
            )
        for key in ("keep_best", "early_stopping"):
            if isinstance(self.adapter, AdaLoraConfig) and getattr(self.train, key) is not None:
                raise ValueError(
                    f"train.{key} with adapter.kind = 'adalora': before the stage's last cut there "
                    "are more ranks than adapter.target_rank; leave it out"
                )
        for name, stage in self.train.stages.items():
            if isinstance(self.adapter, AdaLoraConfig) and stage.ema_decay is not None:
                raise ValueError(
                    f"train.stages.{name}.ema_decay = {stage.ema_decay} with adapter.kind = "
                    "'adalora': an average of weights is not of the ranks that are left; leave it "
                    "out"
                )
        return self

    @model_validator(mode="after")
    def _stages_train_what_exists(self) -> RunConfig:
        kind = f"adapter.kind is '{self.adapter.kind}'"
        absent = dict.fromkeys((role for role in ADAPTER_ROLES if role != Role.ADAPTER), kind)
        if isinstance(self.adapter, AdapterConfig):
            absent = {Role.ADAPTER: kind}
            if self.adapter.num_poison == 0:
                absent[Role.POISON_B] = "adapter.num_poison is 0"
            if not self.adapter.has_router:
                absent[Role.ROUTER] = "a single expert has no router"
        for name, stage in self.train.stages.items():
            for role in (*stage.trainable, *stage.groups):
                if role in absent:
                    raise ValueError(
                        f"train.stages.{name} names the role '{role}', but {absent[role]}; "
                        "remove the role from the stage or add the expert"
                    )
            for role in stage.groups:
                if role not in stage.trainable:
                    raise ValueError(
                        f"train.stages.{name}.groups.{role} would have no effect: "
                        f"'{role}' is not in train.stages.{name}.trainable"
                    )
        return self

    @model_validator(mode="after")
    def _validation_has_what_it_needs(self) -> RunConfig:
        train, answers = self.train, self.answers
        given = {
            f"evaluate.every_steps = {train.evaluate.every_steps}": train.evaluate.every_steps,
            "evaluate.experts": train.evaluate.experts,
            f"keep_best = '{train.keep_best}'": train.keep_best,
            "early_stopping": train.early_stopping,
        }
        for setting, value in given.items():
            if value is not None and self.data.validation is None:
                raise ValueError(
                    f"train.{setting} has no effect without rows to validate on; set "
                    "data.validation.path or data.validation.share"
                )
        if train.early_stopping is not None and train.evaluate.every_steps is None:
            raise ValueError(
                "train.early_stopping has no effect with train.evaluate.every_steps = null: the "
                "loss is taken at a stage's end alone; set train.evaluate.every_steps"
            )
        for answer in answers:
            if problem := absent_expert(answer, self.adapter):
                raise ValueError(f"train.evaluate.experts: {problem}")
        if len(set(answers)) != len(answers):
            raise ValueError(f"train.evaluate.experts names a row twice: {', '.join(answers)}")
        if train.keep_best is not None and train.keep_best not in answers:
            raise ValueError(
                f"train.keep_best = '{train.keep_best}' is not among the rows that are evaluated "
                f"({', '.join(answers)}); add it to train.evaluate.experts"
            )
        stages = train.stages.values()
        if (train.keep_best or train.early_stopping) and not any(
            is_trained(self.watched, stage.trainable) for stage in stages
        ):
            raise ValueError(
                f"no stage trains what the row '{self.watched}' answers with, by which "
                "train.keep_best and train.early_stopping go; name another row"
            )
        return self

    @model_validator(mode="after")
    def _liger_computes_the_loss(self) -> RunConfig:
        for name, stage in self.train.stages.items():
            if self.model.kernels == "liger" and stage.loss.kind != "cross_entropy":
                raise ValueError(
                    f"train.stages.{name}.loss.kind = '{stage.loss.kind}' with model.kernels = "
                    "'liger', which computes the plain cross-entropy alone; set model.kernels=auto"
                )
            if self.model.kernels == "liger" and stage.soft_routing:
                raise ValueError(
                    f"train.stages.{name}.soft_routing = True with model.kernels = 'liger', which "
                    "cannot weigh tokens; set model.kernels=auto"
                )
        if self.model.kernels == "liger" and self.data.has_weights:
            raise ValueError(
                "data.columns maps weight with model.kernels = 'liger', which cannot weigh rows; "
                "set model.kernels=auto"
            )
        return self

    @model_validator(mode="after")
    def _stage_options_have_what_they_need(self) -> RunConfig:
        for name, stage in self.train.stages.items():
            given = {
                f"loss_on = '{stage.loss_on}'": stage.loss_on == "corrupted",
                f"gradient_routing = {stage.gradient_routing}": bool(stage.gradient_routing),
                f"detected_share = {stage.detected_share}": stage.detected_share is not None,
                f"strict_routing = {stage.strict_routing}": stage.strict_routing,
                f"soft_routing = {stage.soft_routing}": stage.soft_routing,
                f"poison_dropout = {stage.poison_dropout}": stage.poison_dropout > 0,
                f"poison_scale = {stage.poison_scale}": stage.poison_scale != 1,
            }
            for setting in (setting for setting, is_on in given.items() if is_on):
                if problem := self._missing_for(setting.split(" ")[0], stage):
                    raise ValueError(f"train.stages.{name}.{setting} {problem}")
        return self

    def _missing_for(self, option: str, stage: StageConfig) -> str | None:
        """Return what an option of a stage lacks, and how to mend it."""
        if not isinstance(self.adapter, AdapterConfig):
            return f"is about experts, and adapter.kind is '{self.adapter.kind}'; leave it out"
        if self.adapter.num_poison == 0:
            return "is about the poisoning experts, and adapter.num_poison is 0; leave it out"
        if option == "poison_scale":
            if stage.poison_scale > 0 or Role.POISON_B not in stage.trainable:
                return None
            return "leaves out what the stage trains: 'poison_b' is among its trainable roles"
        if option == "gradient_routing" and Role.POISON_B not in stage.trainable:
            return (
                "is about what the poisoning experts learn, and they are frozen; add 'poison_b' to "
                "the stage's trainable roles"
            )
        if option in ROUTING_OPTIONS:
            return missing_for_routing(option, stage)
        if stage.gradient_routing == "detected" and option == "gradient_routing":
            return None
        injects = stage.noise in ("text", "hybrid") and self.noise.text.is_on
        if not injects and not self.noise.data.is_on:
            return (
                "needs tokens that noise changed, and the stage has none: its text noise and "
                "noise.data are off; set its noise to text or hybrid, or leave it out"
            )
        return None
