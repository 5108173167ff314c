"""Which file tensors make which parameter: the renamings and fusions of `from_pretrained`.

transformers keeps a table of them for each architecture (`conversion_mapping`). Everything here
follows its loader (`core_model_loading.convert_and_load_state_dict_in_model`) step by step and
calls its functions; nothing of the table is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    build_glob_alternation,
    dot_natural_key,
    rename_source_key,
)
from transformers.utils.loading_report import LoadStateDictInfo


@dataclass
class Recipe:
    """How file tensors become a parameter, or several that are split from one tensor.

    Attributes:
        target: Name of the parameter in the model, the first of several.
        dtype: What the file tensors are cast to.
        converter: transformers' operations; None if the tensor is only renamed.
        sources: The file tensors, each with the pattern of the converter that it matched.
    """

    target: str
    dtype: torch.dtype
    converter: WeightConverter | None = None
    sources: list[tuple[str, str]] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The file tensors that are read; of several for one name transformers takes the first."""
        names = [name for _, name in self.sources]
        return names if self.converter else names[:1]

    def apply(self, model: PreTrainedModel, take: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Return the parameters by name; ``take`` gives a file tensor."""
        if self.converter is None:
            return {self.target: take(self.names[0])}
        converter = deepcopy(self.converter)
        for pattern, name in self.sources:
            converter.add_tensor(self.target, name, pattern, take(name))  # type: ignore[arg-type]
        made = converter.convert(self.target, model=model, config=model.config)
        return {key: v[0] if isinstance(v, list) else v for key, v in made.items()}


@dataclass
class NameMap:
    """What becomes of the tensors of the files.

    Attributes:
        recipes: One for each parameter that the files have something for, or a few in one.
        unexpected: File tensors that the model has no place for, transformers' own exceptions
            left out.
    """

    recipes: list[Recipe]
    unexpected: list[str]


def map_names(model: PreTrainedModel, names: Iterable[str], dtype: torch.dtype) -> NameMap:
    """Assign file tensors to the parameters and persistent buffers of a model.

    Args:
        model: Built, on the meta device or not.
        names: Of the files' tensors.
        dtype: What `from_pretrained` would be asked for.
    """
    state = model.state_dict(keep_vars=True)
    conversions = get_model_conversion_mapping(model)
    renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
    converters = [each for each in conversions if isinstance(each, WeightConverter)]
    by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
    prefix = model.base_model_prefix
    dtype_of = _dtype_rule(model, dtype)
    recipes: dict[str, Recipe] = {}
    unplaced: dict[str, str] = {}
    for name in sorted(names, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, state)
        if target not in state and name in state:
            target, pattern = rename_source_key(name, [], [], prefix, state)
        if target not in state:
            unplaced[name] = target
            continue
        converter = None if pattern is None else by_pattern[pattern]
        recipe = recipes.setdefault(
            target, Recipe(target, dtype_of(target, state[target]), converter)
        )
        recipe.sources.append((pattern or name, name))
    return NameMap(list(recipes.values()), _without_exceptions(model, unplaced))


def may_be_missing(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """Return which of ``names`` transformers does without, by the model class's own exceptions."""
    info = _loading_info(missing=set(names))
    model._adjust_missing_and_unexpected_keys(info)
    return set(names) - info.missing_keys


def _without_exceptions(model: PreTrainedModel, unplaced: dict[str, str]) -> list[str]:
    """Drop what transformers expects to find too much of (by the name after renaming)."""
    info = _loading_info(unexpected=set(unplaced.values()))
    model._adjust_missing_and_unexpected_keys(info)
    return [name for name, target in unplaced.items() if target in info.unexpected_keys]


def _loading_info(
    missing: set[str] | None = None, unexpected: set[str] | None = None
) -> LoadStateDictInfo:
    return LoadStateDictInfo(
        missing_keys=missing or set(),
        unexpected_keys=unexpected or set(),
        mismatched_keys=set(),
        error_msgs=[],
        conversion_errors={},
        skipped_pp_keys=set(),
    )


def _dtype_rule(model: PreTrainedModel, dtype: torch.dtype) -> Callable[[str, Tensor], torch.dtype]:
    """Return what decides a parameter's dtype: the modules kept in float32, else its own."""
    plan = model._get_dtype_plan(dtype)
    if not plan:
        return lambda name, tensor: tensor.dtype
    pattern, by_group, _ = build_glob_alternation(list(plan))

    def rule(name: str, tensor: Tensor) -> torch.dtype:
        match = pattern.search(name)
        if match is None or match.lastgroup is None:
            return tensor.dtype
        return plan[by_group[match.lastgroup]]

    return rule
