"""Which code runs here: ours, Python's and the packages' versions."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import lope_dist

PACKAGES = (
    "torch",
    "deepspeed",
    "bitsandbytes",
    "transformers",
    "accelerate",
    "peft",
    "safetensors",
    "tokenizers",
    "numpy",
    "datasets",
    "liger-kernel",
)
"""Packages that take part in a result, so that their versions must be equal on all hosts."""
OPTIONAL = frozenset({"liger-kernel"})
"""Those of them that a host need not have, as long as none has it."""
ABSENT = "not installed"
_ROOT = Path(lope_dist.__file__).parent


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that take part in a result."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = ABSENT
    return versions


def _source_hash() -> str:
    """Return a short hash of this package's own code: checkouts may share a version."""
    digest = hashlib.sha256()
    for path in sorted(_ROOT.rglob("*.py")):
        digest.update(str(path.relative_to(_ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def code_version() -> dict[str, str | bool | None]:
    """Return version and hash of this package; in a git checkout its commit too."""
    commit = _git("rev-parse", "HEAD")
    changed = None if commit is None else bool(_git("status", "--porcelain", "--", "."))
    return {
        "version": lope_dist.__version__,
        "source": _source_hash(),
        "commit": commit,
        "changed": changed,
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
