"""The studies below `lope compare`: one that chooses learning rates, one that is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lope_dist.config.load import dump_config, load_config
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic
from lope_dist.study.cells import Study
from lope_dist.study.load import load_study
from lope_dist.study.methods import ANSWER, METHODS, last_rate, steps_of_stages, variant
from lope_dist.study.sample import Sample

CHOOSE_ON, JUDGED = "loss:choose_on", "loss:held_out"
_RECIPE = "recipe.yaml"
_OVERRIDES = {
    # The rows are in files of the study, and no row is held out of those.
    "data.split": "train",
    "data.subset": None,
    "data.streaming": False,
    "data.max_examples": None,
    "data.corpus": None,
    "data.validation": None,
    # All methods take the same steps, and the losses are taken afterwards.
    "train.evaluate.every_steps": None,
    "train.evaluate.experts": None,
    "train.keep_best": None,
    "train.early_stopping": None,
}


@dataclass(frozen=True)
class MethodStudies:
    """What a comparison's studies have in common; a cell of both is the same run."""

    config: RunConfig
    sample: Sample
    folder: Path

    def write_recipe(self) -> None:
        """Write the recipe of all runs.

        Raises:
            LopeError: the folder has another one.
        """
        path, text = self.folder / _RECIPE, dump_config(self.config)
        # Through the schema: settings that are newer than the comparison have their defaults there.
        if path.exists() and dump_config(load_config(path)) != text:
            raise LopeError(
                f"{self.folder} holds a comparison of another recipe ({path}); give another folder "
                "with --out, or remove that one."
            )
        write_atomic(path, text)

    def name(self, method: str, factor: float) -> str:
        """Return what a method at a factor on the learning rates is called in the studies."""
        return f"{method}-{last_rate(self.config) * factor:.2g}"

    def search(self, factors: Sequence[float]) -> Study:
        """Return the study of all methods at these factors, with the recipe's seed."""
        cells = [(method, factor) for factor in factors for method in METHODS]
        return self._written(
            "search",
            cells,
            title="The learning rate of each method",
            seeds=[self.config.seed],
            evaluate={"losses": ["choose_on"]},
        )

    def judged(self, chosen: Mapping[str, float], num_seeds: int) -> Study:
        """Return the study of each method at the factor chosen for it, with its claims."""
        sides = {m: f"{self.name(m, factor)}/{ANSWER[m]}" for m, factor in chosen.items()}
        sides["base"] = f"{self.name('lora', chosen['lora'])}/base"
        pairs = [("lope", "lora"), ("lope", "hydralora"), *((m, "base") for m in METHODS)]
        names = METHODS | {"base": "the base model"}
        claims = {
            f"{better}_over_{than}": {
                "claim": f"{names[better]} has a lower loss than {names[than]}",
                "metric": JUDGED,
                "better": sides[better],
                "than": sides[than],
                "direction": "lower",
            }
            for better, than in pairs
        }
        return self._written(
            "compare",
            [*chosen.items()],
            title="LoRA, HydraLoRA and LoPE on these rows",
            about="The same rows, steps and tokens; each method at the learning rate that was best "
            "on other held-out rows.",
            seeds=[self.config.seed + n for n in range(num_seeds)],
            evaluate={"losses": ["held_out"]},
            claims=claims,
        )

    def _written(self, name: str, cells: Sequence[tuple[str, float]], **parts: Any) -> Study:
        num_steps = steps_of_stages(self.config, self.sample.num_trained)
        variants = {self.name(m, f): variant(self.config, m, f, num_steps) for m, f in cells}
        tree = {
            **parts,
            "output_dir": str(self.folder),
            "recipe": _RECIPE,
            "overrides": _OVERRIDES,
            "files": {n: f.model_dump(mode="json") for n, f in self.sample.files.items()},
            "train_file": "train",
            "variants": {n: v.model_dump(mode="json") for n, v in variants.items()},
            "baseline": next(f"{self.name(m, f)}/all" for m, f in cells if m == "lora"),
        }
        path = self.folder / f"{name}.yaml"
        write_atomic(path, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
        return load_study(path)
