"""Variables of this shell that a launch over ssh sets on every host.

DeepSpeed's launcher sends those of Python, of NCCL and of a few other libraries, and the lines of
`.deepspeed_env`. Without those here, ranks would read other data than the command line says.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from lope_dist.core.errors import LopeError

SENT = (
    "LOPE_",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_DATASETS_CACHE",
    "HF_DATASETS_OFFLINE",
    "HF_ENDPOINT",
    "TRANSFORMERS_OFFLINE",
    "XDG_CACHE_HOME",
    "WANDB_MODE",
    "WANDB_PROJECT",
    "WANDB_ENTITY",
    "WANDB_BASE_URL",
    "WANDB_DIR",
    "TRACKIO_DIR",
)
"""How names begin that are sent too: what recipes may read, what decides which files of the hub
are read, and where trackers write (DeepSpeed sends MLflow's). Not HF_TOKEN nor WANDB_API_KEY: what
is sent stands in lists of processes, and DeepSpeed prints it."""
_CHANGED = re.compile(r'["$`\\]|%[hnu%]')
"""What the other host's shell, or pdsh, would read as something else."""


def sent_variables() -> dict[str, str]:
    """Return what a launch over ssh sets on every host; the lines of `.deepspeed_env` win.

    Values of that file are as they stand there: each host's shell expands their `$`.
    DeepSpeed sends all of it to two hosts or more; one host it starts here, and sends nothing.

    Raises:
        LopeError: a value that would not arrive as it is, or a line that is no NAME=VALUE.
    """
    sent = {name: value for name, value in os.environ.items() if name.startswith(SENT)}
    for name, value in sent.items():
        if _CHANGED.search(value):
            raise LopeError(
                f"The variable {name} = '{value}' would not reach other hosts as it is: a value "
                'that ssh passes on may hold no ", $, ` or \\ and no %h, %n, %u or %%; write it '
                "otherwise, or unset it."
            )
    file = os.environ.get("DS_ENV_FILE", ".deepspeed_env")
    for path in (Path.home() / file, Path.cwd() / file):
        for line in path.read_text().splitlines() if path.is_file() else ():
            name, equals, value = line.partition("=")
            if not equals:
                raise LopeError(
                    f"{path}: '{line}' is not of the form NAME=VALUE, which DeepSpeed asks of "
                    "every line; remove it, also where it is empty or a comment."
                )
            sent[name.strip()] = value.strip()
    return sent
