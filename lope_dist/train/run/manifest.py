"""`RUN/manifest.json`: enough to repeat a run, and the story of its starts.

    fingerprints, seed, config_sha256     what was trained on what
    stages                                steps, tokens, last loss of each
    starts: [ {started, ended, status, reason, diverged, command, code, packages, ranks,
               environment, premises} ]

A start that was killed has no end; the next one marks it `interrupted`. Of the environment only
named variables are kept, and user:password@ leaves every URL.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lope_dist.config.load import dump_config
from lope_dist.config.schema import RunConfig
from lope_dist.core.errors import Diverged
from lope_dist.core.files import telling_disk_errors
from lope_dist.core.runlog import write_json
from lope_dist.core.side_files import MANIFEST, MANIFEST_FORMAT, METRICS
from lope_dist.core.versions import code_version, package_versions
from lope_dist.engine.exchange import exchange
from lope_dist.engine.world import World

# A list of what is kept, never of what is left out: a secret may have any name.
_ENVIRONMENT = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "DS_ACCELERATOR",
    "GLOO_SOCKET_IFNAME",
    "HF_HUB_OFFLINE",
    "JOB_COMPLETION_INDEX",
    "LOCAL_WORLD_SIZE",
    "MASTER_PORT",
    "NCCL_IB_DISABLE",
    "NCCL_IB_HCA",
    "NCCL_P2P_DISABLE",
    "NCCL_SOCKET_IFNAME",
    "OMP_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "SLURM_JOB_ID",
    "SLURM_NNODES",
    "SLURM_RESTART_COUNT",
    "TORCHELASTIC_RESTART_COUNT",
    "WORLD_SIZE",
)
_CREDENTIALS = re.compile(r"(://)[^/@\s]+@")


@contextmanager
def recorded(
    config: RunConfig, world: World, fingerprints: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Context of a run's training: its start and its end are written down by rank 0.

    What it yields is the record of this start, of which `status` and `reason` may be set.

    Args:
        config: The run's configuration; its folder is there.
        world: The ranks.
        fingerprints: Of base weights, architecture, tokenizer and data.

    Collective: yes, on entering.

    Raises:
        LopeError: the disk is full.
    """
    ranks = [json.loads(text) for text in exchange(json.dumps(_this_rank(world)), world)]
    if not world.is_main:
        yield {}
        return
    path = Path(config.output_dir) / MANIFEST.name
    manifest = _opened(path, config, fingerprints)
    start = {
        "started": _now(),
        "ended": None,
        "status": "running",
        "reason": None,
        "command": redact(" ".join(sys.argv)),
        "code": code_version(),
        "packages": package_versions(),
        "platform": platform.platform(),
        "engine": config.engine.model_dump(mode="json"),
        "micro_batch": config.train.micro_batch,
        "ranks": ranks,
        "environment": {k: os.environ[k] for k in _ENVIRONMENT if k in os.environ},
    }
    manifest["starts"].append(start)
    _write(path, manifest)
    begin = time.monotonic()
    try:
        yield start
    except BaseException as error:
        start["status"] = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        lines = str(error).strip().splitlines()
        start["diverged"] = isinstance(error, Diverged)
        start["reason"] = redact(lines[0] if lines else type(error).__name__)
        raise
    else:
        if start["status"] == "running":
            start["status"] = "finished"
    finally:
        start |= {"ended": _now(), "seconds": round(time.monotonic() - begin, 1)}
        if path.parent.is_dir():  # else the folder went away, and the run has ended with that
            manifest["stages"] = _stages(path.parent)
            _write(path, manifest)


def note(run_dir: Path, start: dict[str, Any], **values: Any) -> None:
    """Add values to this start's record and write them down. Rank 0 calls this within `recorded`.

    Raises:
        LopeError: the disk is full.
    """
    start |= values
    manifest = MANIFEST.recover(run_dir)
    if manifest is not None and manifest["starts"]:  # else it is written whole at the end
        manifest["starts"][-1] = start
        _write(run_dir / MANIFEST.name, manifest)


def redact(text: str) -> str:
    """Return the text without the credentials of URLs in it."""
    return _CREDENTIALS.sub(r"\1***@", text)


def _write(path: Path, manifest: dict[str, Any]) -> None:
    with telling_disk_errors(path.parent):
        write_json(path, manifest)


def _opened(path: Path, config: RunConfig, fingerprints: Mapping[str, str]) -> dict[str, Any]:
    """Return the run's manifest, with the starts so far if there were any."""
    before = (MANIFEST.recover(path.parent) or {"starts": []})["starts"]
    for start in before:
        if start["status"] == "running":
            start["status"] = "interrupted"
    return {
        "format": MANIFEST_FORMAT,
        "config_sha256": hashlib.sha256(dump_config(config).encode()).hexdigest(),
        "seed": config.seed,
        "fingerprints": dict(fingerprints),
        "stages": {},
        "starts": before,
    }


def _this_rank(world: World) -> dict[str, Any]:
    device = str(world.device)
    if world.device.type == "cuda":
        import torch

        device += f" ({torch.cuda.get_device_name(world.device)})"
    return {"rank": world.rank, "host": socket.gethostname(), "device": device, "pid": os.getpid()}


def _stages(run_dir: Path) -> dict[str, Any]:
    """Return steps, tokens, time and last loss of each stage that has begun."""
    stages: dict[str, Any] = {}
    for line in METRICS.read(run_dir):
        stage = stages.setdefault(line["stage"], {"logged_tokens": 0, "first_time": line["time"]})
        stage["steps"] = line["step"] + 1
        stage["logged_tokens"] += line["tokens"]
        stage["loss"] = line["loss"]
        stage["last_time"] = line["time"]
    return stages


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
