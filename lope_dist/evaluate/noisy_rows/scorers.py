"""Who may score rows: a trained run, or a base model that no run was made of."""

from __future__ import annotations

from pathlib import Path

from lope_dist.config.adapter import AdapterConfig
from lope_dist.config.named import has_data, load_recipe_or_model
from lope_dist.config.schema import RunConfig
from lope_dist.core.fingerprint import json_hash
from lope_dist.engine.world import World
from lope_dist.evaluate.loaded.load import (
    PURIFIED,
    load_base,
    load_run,
    load_run_config,
    run_checkpoint,
)
from lope_dist.evaluate.loaded.parallel import agreed, is_main
from lope_dist.evaluate.noisy_rows.measured import Scorer
from lope_dist.model.build import architecture, attention_of, load_tokenizer
from lope_dist.model.fingerprint import fingerprints
from lope_dist.train.premises.data import dated, form_of
from lope_dist.train.premises.preflight import with_settled

FOLDER = "scores"


def scorer_of_run(
    run_dir: Path, checkpoint: str, *, world: World | None, base: str, progress: bool
) -> Scorer:
    """Return a run's checkpoint as scorer; its measures are kept in `RUN/scores/`.

    Collective: yes, with a ``world``.

    Raises:
        LopeError: not a run, or no such checkpoint.
    """
    config = load_run_config(run_dir)
    chosen = agreed(run_checkpoint(run_dir, checkpoint), world)
    return Scorer(
        config,
        chosen.stage == PURIFIED,
        str(run_dir),
        {"adapter_sha256": chosen.adapter_sha256},
        run_dir / FOLDER,
        lambda: load_run(
            run_dir,
            checkpoint=chosen,
            world=world,
            base=base,
            progress=progress and is_main(world),
        ),
    )


def scorer_of_base(
    config: RunConfig, folder: Path, *, world: World | None, base: str, progress: bool
) -> Scorer:
    """Return a configuration's base model as scorer; its measures are kept in ``folder``."""
    alone = AdapterConfig(num_normal=1, num_poison=0)  # nothing of the recipe's answers
    config = config.model_copy(update={"adapter": alone})
    settings = config.model
    tokenizer = load_tokenizer(settings)
    identity = {
        **fingerprints(settings, tokenizer),
        "form": json_hash(form_of(config, tokenizer, architecture(settings)).identity),
        "quantization": f"{settings.quantization} {settings.dtype}",
        "double_quantization": str(settings.double_quantization),
        "skip_modules": ", ".join(sorted(settings.skip_modules)),
    }
    return Scorer(
        config,
        False,
        settings.name_or_path,
        identity,
        folder,
        lambda: load_base(config, world=world, base=base, progress=progress and is_main(world)),
        has_experts=False,
    )


def base_config(model: str) -> RunConfig:
    """Return a recipe's configuration, or a model's with the chat template if it has one.

    Raises:
        LopeError: neither of them.
    """
    config = load_recipe_or_model(model)
    tokenizer = load_tokenizer(config.model)
    if not has_data(config) and tokenizer.chat_template:
        data = config.data.model_copy(update={"template": "chat"})
        config = config.model_copy(update={"data": data})
    arch = architecture(config.model)
    attention = attention_of(config.model, arch, allows_flash=False)
    config = with_settled(config, attention=attention, packing=False)
    return dated(config, tokenizer)
