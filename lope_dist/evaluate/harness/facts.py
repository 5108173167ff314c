"""What results say of the model that gave them: whose base, which run, how large."""

from __future__ import annotations

from typing import Any

from lope_dist.adapters.lope import model_roles
from lope_dist.core.roles import Role
from lope_dist.evaluate.loaded.load import LoadedRun
from lope_dist.model.fingerprint import fingerprints
from lope_dist.model.nf4 import packed_weights
from lope_dist.model.source import revision_of


def model_facts(run: LoadedRun) -> dict[str, Any]:
    """Return the run's name, its base's name, revision and hash, and the parameters of both.

    A parameter counts as the model's author counts it, packed or not and on how many ranks.
    """
    settings = run.config.model
    counts = {True: 0, False: 0}
    roles = model_roles(run.model)
    shapes = {
        id(module.get_parameter(name)): weight.shape.numel()
        for module in run.model.modules()
        for name, weight in packed_weights(module).items()
    }
    for name, parameter in run.model.named_parameters():
        numel = getattr(parameter, "ds_numel", parameter.numel())
        counts[roles[name] == Role.BASE] += shapes.get(id(parameter), numel)
    return {
        "run": run.run_dir.resolve().name,
        "base": settings.name_or_path,
        "base_revision": revision_of(settings),
        "base_sha": fingerprints(settings, run.tokenizer)["base weights"],
        "base_parameters": counts[True],
        "adapter_parameters": counts[False],
    }
