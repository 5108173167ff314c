"""Run the fault matrix: `python -m faults.run [--ci] [--only NAME] [--again] [--write-docs]`.

Each case is a process of its own with a hard limit and an empty folder; when it ends, whatever
it left running is ended and counted against it. `runs/faults.json` is written after each case,
and a second call goes on with the cases that are not there yet.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

from faults.base import CASES, Case, NotRun
from faults.table import write_docs

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "runs" / "faults.json"
_PACKAGES = ("torch", "deepspeed", "bitsandbytes", "transformers")
_NOT_RUN = 3


def main() -> None:
    """Run the cases asked for; exit with 1 if one did not survive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ci", action="store_true", help="only the subset of every test run")
    parser.add_argument("--only", action="append", default=[], help="only this case; repeatable")
    parser.add_argument("--again", action="store_true", help="also cases that are done already")
    parser.add_argument("--write-docs", action="store_true", help="write docs/reliability.md")
    parser.add_argument("--harm", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.harm:
        module, name, folder = arguments.harm
        sys.exit(_harm(module, name, Path(folder)))
    load_cases()
    if unknown := set(arguments.only) - CASES.keys():
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    asked = [c for c in CASES.values() if not arguments.only or c.name in arguments.only]
    chosen = [c for c in asked if c.in_ci or not arguments.ci]
    table = _read()
    done = {e["name"] for e in table["matrix"] if e["survived"]}
    for case in chosen:
        if case.name not in done or arguments.again:
            entry = run_case(case, ROOT / "runs" / "faults")
            table = _read()  # another call may have written meanwhile
            _record(table, entry)
            print(_line(entry), flush=True)
    lost = [e["name"] for e in table["matrix"] if e["survived"] is False]
    num_untried = len(CASES.keys() - {e["name"] for e in table["matrix"]})
    if arguments.write_docs:
        write_docs(table, num_untried, ROOT / "docs" / "reliability.md")
    print(f"{table['survived']} of {table['cases']} cases survived; {num_untried} not tried yet.")
    sys.exit(bool(lost))


def load_cases() -> None:
    """Import every `cases_*.py` beside this file."""
    for path in sorted(Path(__file__).parent.glob("cases_*.py")):
        importlib.import_module(f"faults.{path.stem}")


def run_case(case: Case, folder: Path) -> dict[str, Any]:
    """Run one case in a process of its own and return its entry of the table.

    `survived` is None for a case that this machine cannot run.
    """
    own = _own_folder(case, folder)
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    result, log = own.with_suffix(".json"), log_of(case, folder)
    result.unlink(missing_ok=True)
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "faults.run", "--harm"]
    command += [case.harm.__module__, case.name, str(own)]
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "LOPE_FAULT_CASE": mark}
    begin = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **paths, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        error = None
        try:
            status = process.wait(case.limit_s)
        except subprocess.TimeoutExpired:
            status, error = -1, f"did not end within {case.limit_s:.0f} s"
    seconds = round(time.monotonic() - begin, 1)
    orphans = _end_marked(mark)
    process.wait()
    said: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
    error = error or said.get("error") or (None if status == 0 else f"ended with status {status}")
    if orphans and error is None:
        error = f"left processes running: {'; '.join(orphans)}"
    return {
        "name": case.name,
        "group": case.group,
        "states": case.states,
        "survived": None if status == _NOT_RUN else error is None,
        "seconds": seconds,
        "figures": said.get("figures", {}),
        "error": error,
    }


def log_of(case: Case, folder: Path) -> Path:
    """Return where a case writes what its processes said."""
    return _own_folder(case, folder).with_suffix(".log")


def _own_folder(case: Case, folder: Path) -> Path:
    return folder / re.sub(r"[^\w-]", "_", case.name)


def _harm(module: str, name: str, folder: Path) -> int:
    """Run a case in this process; its figures or its error go to a file."""
    importlib.import_module(module)  # no other: most of them import the whole of training
    # Under `nohup`, or behind a script's `&`, all that is started would ignore one of them.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    said: dict[str, Any]
    try:
        said, status = {"figures": CASES[name].harm(folder)}, 0
    except NotRun as reason:
        said, status = {"error": str(reason)}, _NOT_RUN
    except BaseException as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        said, status = {"error": lines[0] if lines else type(error).__name__}, 1
    folder.with_suffix(".json").write_text(json.dumps(said))
    return status


def _end_marked(mark: str) -> list[str]:
    """End every process that carries a case's mark in its environment; return their commands."""
    needle = f"LOPE_FAULT_CASE={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            is_ours = pid != os.getpid() and needle in (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            command = (folder / "cmdline").read_text().replace("\0", " ").strip()
            if is_ours and state not in "ZX":
                os.kill(pid, signal.SIGKILL)
                found.append(command[:120])
        except OSError:
            continue
    return found


def _read() -> dict[str, Any]:
    if RESULTS.exists():
        table = json.loads(RESULTS.read_text())
        table["matrix"] = [entry for entry in table["matrix"] if entry["name"] in CASES]
        return table
    return {"cases": 0, "survived": 0, "matrix": []}


def _record(table: dict[str, Any], entry: dict[str, Any]) -> None:
    by_name = {e["name"]: e for e in table["matrix"]} | {entry["name"]: entry}
    table["matrix"] = [by_name[name] for name in CASES if name in by_name]
    tried = [e for e in table["matrix"] if e["survived"] is not None]
    table["cases"] = len(tried)
    table["survived"] = sum(e["survived"] for e in tried)
    table["not_run"] = len(table["matrix"]) - len(tried)
    table["date"] = time.strftime("%Y-%m-%d", time.gmtime())
    table["machine"] = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    table["versions"] = {name: version(name) for name in _PACKAGES}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    beside = RESULTS.with_suffix(".tmp")
    beside.write_text(json.dumps(table, indent=2) + "\n")
    beside.replace(RESULTS)


def _line(entry: dict[str, Any]) -> str:
    word = {True: "survived", False: "LOST", None: "not run"}[entry["survived"]]
    figures = ", ".join(f"{key} {value}" for key, value in entry["figures"].items())
    return f"{word:8} {entry['seconds']:6.1f} s  {entry['name']}  {entry['error'] or figures}"


if __name__ == "__main__":
    main()
