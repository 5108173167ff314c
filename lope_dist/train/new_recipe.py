"""`lope init`: a short recipe for own rows, with settings that fit them and the machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lope_dist.config.load import load_config, validate_config
from lope_dist.config.named import load_recipe_or_model
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import LopeError
from lope_dist.corpus.examples.account import BadRows
from lope_dist.corpus.examples.source import ExampleSource
from lope_dist.corpus.examples.split import TooFewRows
from lope_dist.corpus.tokens.encode import encode
from lope_dist.model.build import architecture, load_tokenizer
from lope_dist.model.families import num_positions
from lope_dist.model.slow_dtype import slow_dtype_sentence
from lope_dist.train.premises.data import opened, steps_of
from lope_dist.train.premises.params import count_run

_LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
_SAMPLE = 1000
"""Rows that are looked at to choose a length."""
_UNCUT = 1 << 30
"""Tokens that no row has: an answer behind a cut is no bad row."""
_FEW_CUT = 0.01
_MOST_BAD = 0.01
"""Share of bad rows up to which the recipe leaves them out."""
_SMALL_MODEL = 1e9
"""Below so many parameters a larger learning rate was best in the studies."""
_MANY_ROWS, _SHARE_OF_MANY, _SHARES = 400, 0.05, (0.1, 0.2, 0.3, 0.5)
"""Share of the rows that is held out: of many, and of fewer, of which a small one may be none."""
_STEPS_WANTED = 60
"""Optimizer steps of an epoch below which the global batch is made smaller."""
_TOKENS_PER_DEVICE = {0: 1024, 20: 2048, 40: 4096, 70: 8192}
"""GiB of a device -> tokens of a micro-batch; 0 is a small card."""
_TOKENS_ON_CPU = 4096
"""Each micro-batch unpacks all weights, and so many tokens take little of a host's memory."""
_LAYERS = ("model_nf4", "adapter_lope", "noise_hynoise", "train_routed")
"""Shipped layers; the last one is the form of LoPE that went furthest in the studies."""


@dataclass(frozen=True)
class Machine:
    """What a recipe is to run on."""

    devices: int
    gib: float
    """Memory of a device; 0 for a CPU."""
    emulates_bfloat16: bool = False
    """Whether bfloat16 is much slower here than float32."""

    @classmethod
    def here(cls) -> Machine:
        """Return this machine."""
        import torch

        is_slow = slow_dtype_sentence("bfloat16") is not None
        if not torch.cuda.is_available():
            return cls(1, 0.0, is_slow)
        memory = torch.cuda.get_device_properties(0).total_memory
        return cls(torch.cuda.device_count(), memory / 2**30, is_slow)

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch that are a fair start; `lope plan` checks the memory."""
        if self.gib == 0:
            return _TOKENS_ON_CPU
        return max(n for gib, n in _TOKENS_PER_DEVICE.items() if self.gib >= gib)


def new_recipe(model: str, data: str, output_dir: str, machine: Machine) -> str:
    """Return the recipe as YAML with comments, for rows that were read once.

    The recipe leaves a few bad rows out. They are named here, and counted in a comment of it.

    Raises:
        LopeError: a model that a run would refuse, or more than a few bad rows.
    """
    base = load_recipe_or_model(model)
    tokenizer, arch = load_tokenizer(base.model), architecture(base.model)
    limit = num_positions(arch) or _LENGTHS[-1]
    lengths = [n for n in _LENGTHS if n <= limit] or [limit]
    of_base = base.data.model_copy(update={"max_length": lengths[0]})
    parameters = count_run(base.model_copy(update={"data": of_base}))["model_parameters"]
    template = "chat" if tokenizer.chat_template else "alpaca"
    recipe: dict[str, Any] = {
        "output_dir": output_dir,
        "model": {"name_or_path": model},
        "data": {"path": data, "template": template},
        "train": {},
    }
    shares, has_bad_rows = _looked_through(recipe, lengths)
    if has_bad_rows:
        recipe["data"]["max_bad_rows"] = _MOST_BAD
    rows = _read_at_first_of(recipe, [*shares])
    rows.bad_rows.tell()
    length = recipe["data"]["max_length"]
    examples = rows.account.examples
    batch = max(n for n in (4, 8, 16, 32) if n == 4 or examples / n >= _STEPS_WANTED)
    recipe["train"] = {"global_batch": batch}
    share, steps = _share_and_steps(recipe, examples)
    micro = max(1, min(machine.tokens // length, batch // machine.devices))
    return _TEXT.format(
        model=model,
        data=yaml.safe_dump(data).partition("\n")[0],
        model_value=yaml.safe_dump(model).partition("\n")[0],
        layers=", ".join(f"base/{name}.yaml" for name in _LAYERS),
        dtype=_FLOAT32 if machine.emulates_bfloat16 else "",
        output_dir=yaml.safe_dump(output_dir).partition("\n")[0],
        template=template,
        about_template="the model's own" if template == "chat" else "the model has none of its own",
        length=length,
        cut=f"{shares[length]:.1%}",
        bad=_about_bad(rows.bad_rows),
        share=share,
        batch=batch,
        steps=steps,
        micro=micro,
        every=max(5, round(steps / 4)),
        lr="1e-3" if parameters < _SMALL_MODEL else "2e-4",
        engine="{kind: local}" if machine.devices == 1 else "{kind: deepspeed, zero_stage: 3}",
        about_engine=_about(machine),
    )


def write_recipe(path: Path, text: str) -> None:
    """Write a recipe that loads; leaves no file behind if it does not.

    Raises:
        LopeError: it does not load, which is a fault of this module.
    """
    from lope_dist.core.files import write_atomic

    write_atomic(path, text)
    try:
        load_config(path)
    except BaseException:
        os.unlink(path)
        raise


def _looked_through(recipe: dict[str, Any], lengths: list[int]) -> tuple[dict[int, float], bool]:
    """Return what the rows, uncut, need.

    That is the lengths, from the least that cuts few of the first rows, with the share that each
    cuts, and whether there are bad rows.

    Raises:
        LopeError: there are more than a few.
    """
    data = recipe["data"] | {"max_length": _UNCUT, "max_bad_rows": _MOST_BAD}
    _, source, form = opened(validate_config(recipe | {"data": data}, "lope init"))
    tokens = encode([*source.read(0, _SAMPLE)], form)
    sizes = [max(len(row.input_ids), len(row.labels)) for row in tokens]
    shares = {n: sum(size > n for size in sizes) / len(sizes) for n in lengths}
    few = {n: share for n, share in shares.items() if share <= _FEW_CUT}
    return few or {lengths[-1]: shares[lengths[-1]]}, source.bad_rows.total > 0


def _read_at_first_of(recipe: dict[str, Any], lengths: list[int]) -> ExampleSource:
    """Set the first length at which the rows are accepted, and return them, read and counted.

    A row whose answer is behind the cut counts as a bad one, so a greater length may have fewer.

    Raises:
        LopeError: they are accepted at none.
    """
    for length in lengths:
        recipe["data"]["max_length"] = length
        try:
            return _opened(recipe)[1]
        except LopeError:
            if length == lengths[-1]:
                raise
    raise AssertionError("there is a length")


def _share_and_steps(recipe: dict[str, Any], examples: int) -> tuple[float, int]:
    """Return the least share that holds out a row and leaves one, and the steps that are left.

    Raises:
        LopeError: there are too few rows for any.
    """
    for share in _SHARES if examples < _MANY_ROWS else (_SHARE_OF_MANY, *_SHARES):
        data = recipe["data"] | {"validation": {"share": share}}
        try:
            return share, steps_of(*_opened(recipe | {"data": data}))["finetune"]
        except TooFewRows:
            continue
    raise LopeError(
        f"{recipe['data']['path']}: {examples} examples are too few to train on some and to hold "
        "out others for validation; add rows."
    )


def _about_bad(bad_rows: BadRows) -> str:
    """Return the recipe's line about bad rows, or nothing if there are none."""
    if not bad_rows.total:
        return ""
    where, reason = bad_rows.first[0]
    count = f"leaves out {bad_rows.total:,} of {bad_rows.num_rows:,} rows"
    first = f"{Path(where).name}: {reason.partition(';')[0]}"
    return f"  max_bad_rows: {_MOST_BAD}  # {count}; the first is {first}\n"


def _opened(tree: dict[str, Any]) -> tuple[RunConfig, ExampleSource]:
    """Return a configuration and the rows that it trains on, read and counted."""
    config, source, _ = opened(validate_config(tree, "lope init"))
    return config, source


def _about(machine: Machine) -> str:
    if machine.gib == 0:
        return "a CPU"
    return f"{machine.devices} x {machine.gib:.0f} GiB"


_FLOAT32 = "  dtype: float32  # bfloat16 is emulated here, and slow\n"
_TEXT = """\
# LoPE on {model}, written by `lope init`. All keys: docs/configuration.md
include: [{layers}]
output_dir: {output_dir}
model:
  name_or_path: {model_value}
{dtype}data:
  path: {data}
  template: {template}  # {about_template}
  max_length: {length}  # tokens; cuts {cut} of the first rows
{bad}  validation: {{share: {share}}}  # held out, never trained on
train:
  global_batch: {batch}  # {steps} steps an epoch
  micro_batch: {micro}
  evaluate: {{every_steps: {every}}}
  stages:
    poison: {{lr: {lr}}}  # Stage I: noise is injected here and nowhere else
    finetune: {{lr: {lr}}}  # Stage II: the rows as they are
engine: {engine}  # {about_engine}
"""
