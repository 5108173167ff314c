"""Try the newest release of every dependency: `make test-latest`.

Makes `.venv-latest` of its own, where the upper bounds of `pyproject.toml` do not hold, runs the
quick tests there, and says which libraries are newer than in `.venv` and which tests fail with
them. Exit status: that of the tests.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-latest" / "bin" / "python"
QUICK = ["-m", "not dist and not model and not thorough", "tests/unit"]


def unbounded(requirements: Iterable[str]) -> list[str]:
    """Return requirements without their upper bounds."""
    return [re.sub(r",?<[=\d.]+", "", requirement) for requirement in requirements]


def newer(ours: dict[str, str], latest: dict[str, str]) -> list[str]:
    """Return a line for each library whose version differs."""
    names = sorted(name for name in ours.keys() & latest.keys() if ours[name] != latest[name])
    return [f"{name} {ours[name]} -> {latest[name]}" for name in names]


def failed(report: str) -> list[str]:
    """Return the tests that pytest's summary says failed."""
    return re.findall(r"^(?:FAILED|ERROR) (\S+)", report, re.MULTILINE)


def versions(python: str | Path) -> dict[str, str]:
    """Return the version of each library that is installed for an interpreter."""
    command = [str(python), "-m", "pip", "list", "--format", "json"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {entry["name"].lower(): entry["version"] for entry in json.loads(listed)}


def run(command: list[str]) -> tuple[int, str]:
    """Run a command, show what it prints as it comes, and return its status and all of that."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return process.returncode, "".join(lines)


def main() -> None:
    """Install, test and tell."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = unbounded([*project["dependencies"], *extras["dev"], *extras["demo"]])
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PYTHON.parents[1])], check=True)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--upgrade", *wanted], check=True)
    subprocess.run([*pip, "--no-deps", "--editable", str(ROOT)], check=True)
    tests = [str(PYTHON), "-m", "pytest", "--numprocesses", "2", "--dist", "loadfile", *QUICK]
    print("Newer than in .venv:", *newer(versions(sys.executable), versions(PYTHON)), sep="\n  ")
    status, report = run(tests)
    print("Failed with them:", *(failed(report) or ["none"]), sep="\n  ")
    sys.exit(status)


if __name__ == "__main__":
    main()
