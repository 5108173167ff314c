"""A run: its folder, its stages and their steps, checkpoints and resume.

From the bottom up::

    checkpoint  its checkpoints: files, choice, what a run remembers
    premises    what is known before its first step
    run         what lasts as long as it: set-up, folder, lock, manifest, resume
    stage       one stage: loop, step, validation
    session     all of it, stage after stage

Beside them `objective` (the loss), `trackers`, and what other commands call.

Not here: how a step is computed on ranks (`engine`), how a row becomes tensors (`corpus`).

The package can be called: `from lope_dist import train` and `train(config)` is
`train.session.train(config)`. A function of that name beside a package of that name would be one or
the other, by what was imported first.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class _Training(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Path:
        from lope_dist.train.session import train

        return train(*arguments, **options)


sys.modules[__name__].__class__ = _Training
