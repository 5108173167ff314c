"""Which architectures load, quantize, pack, train and export right, tried on tiny random ones.

`architectures.py` makes them. Of each row:

    check              `ok`, or the sentence with which `lope check` refuses it
    loads              it loads without quantization ...
    logits_equal       ... and gives transformers' own logits, to the last bit
    nf4_share          elements in NF4 over elements of all weights that can be
    packing            `exact`: packed examples do not see each other, measured before step 0;
                       `off`: they would, so they are not packed; null for encoder-decoders
    step0_loss_equal   the first loss packed and not packed, one row at a time; where packing is
                       off, of two runs that differ by that
    trains             both stages, and on two ZeRO-3 ranks with the local engine's losses where
                       `zero3_equal` is there
    exports            peft's and transformers' own reading of the `peft` and `merged` exports agree

A row is right where all of that holds, or where `check` refuses it and so nothing was read. The
last line is one JSON object, also written to `docs/models.json` and as a table to
`docs/models.md`.

Run: python bench/models.py [NAME ...] [--workdir DIR]     about 40 minutes on two cores
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from architectures import ARCHITECTURES
from common import command, machine

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
_CHECKS = ("loads", "logits_equal", "step0_loss_equal", "trains", "exports")
_AT_ONCE = 2


def is_right(row: dict[str, Any]) -> bool:
    """Return whether all of a row holds, or its model was refused before anything was read."""
    if row.get("check", "ok") != "ok":
        return not row["loads"]
    return "failed" not in row and all(row.get(key, False) for key in _CHECKS)


def measure(names: list[str], workdir: Path) -> list[dict[str, Any]]:
    """Return the rows of these architectures, in their order."""
    files = [workdir / f"rows-{part}.jsonl" for part in range(_AT_ONCE)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for part, file in enumerate(files):
            pool.submit(_measure_part, names[part::_AT_ONCE], workdir, file)
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    found = [json.loads(line) for line in lines]
    return sorted(found, key=lambda row: names.index(row["name"]))


def _measure_part(names: list[str], workdir: Path, file: Path) -> None:
    """Write the rows of some architectures, one process for as many as it survives."""
    while names:
        _start(names, workdir, file).wait()
        names = _unanswered(names, file)


def _start(names: list[str], workdir: Path, file: Path) -> subprocess.Popen:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")])
        ),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "LOPE_DATA_CACHE": str(workdir / "cache"),
    }
    script = [sys.executable, str(HERE / "models_rows.py"), str(workdir), str(file), *names]
    return subprocess.Popen(script, env=environment, stderr=subprocess.DEVNULL)


def _unanswered(names: list[str], file: Path) -> list[str]:
    """Return what is left to try; where a process ended early, its model has failed."""
    lines = file.read_text().splitlines() if file.exists() else []
    done = {json.loads(line)["name"] for line in lines}
    left = [name for name in names if name not in done]
    if left:
        row = {"name": left[0], "loads": False, "failed": "the process ended"}
        with file.open("a") as out:
            out.write(json.dumps(row) + "\n")
    return left[1:]


def page(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Return docs/models.md."""
    right = sum(map(is_right, rows))
    refused = sum(row.get("check", "ok") != "ok" for row in rows)
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    lines = [
        "# Models",
        "",
        "Written by `python bench/models.py`, not by hand. Each architecture was made tiny and",
        "random, then loaded, trained in NF4 and exported.",
        "",
        f"{len(rows)} architectures: {right - refused} work in all columns, {refused} are refused",
        f"by `lope check` before anything is read, {len(rows) - right} have a fault.",
        "",
        "| architecture | logits | NF4 | packing | step 0 | trains | ZeRO-3 | exports |",
        "| --- | --- | ---: | --- | --- | --- | --- | --- |",
        *map(_line, rows),
        "",
        "- logits: without quantization they are transformers' own, to the last bit.",
        "- NF4: share of the weights that are not exempt by kind, such as embeddings and routers.",
        "- packing: `exact` where packed examples do not see each other, else it is switched off.",
        "- step 0: the first loss is the same packed and one row at a time.",
        "- trains: both stages. ZeRO-3: the losses on two ranks are those of one process.",
        "- exports: peft and transformers read the `peft` and `merged` exports, and they agree.",
        "",
        f"{facts['date']}, {facts['cpu']}; {versions}.",
        "",
    ]
    reasons = [row for row in rows if row.get("check", "ok") != "ok"]
    if reasons:
        lines += ["## Refused", "", *(f"- {row['name']}: {row['check']}" for row in reasons), ""]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    name = row["name"]
    if row.get("check", "ok") != "ok":
        return f"| {name} | refused | | | | | | |"
    if "failed" in row:
        return f"| {name} | **failed** | | | | | | |"
    share = f"{100 * row['nf4_share']:.1f} %"
    cells = [row["logits_equal"], share, row.get("packing") or ""]
    cells += [row["step0_loss_equal"], row["trains"], row.get("zero3_equal", ""), row["exports"]]
    words = {True: "yes", False: "**no**"}
    return f"| {name} | " + " | ".join(str(words.get(c, c)) for c in cells) + " |"


def main() -> None:
    """Measure, write the documents of a whole table, print it."""
    parser = command(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures; default all")
    parser.add_argument(
        "--workdir", type=Path, help="folder for models and runs; default temporary"
    )
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(ARCHITECTURES))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(ARCHITECTURES)}")
    names = [name for name in ARCHITECTURES if not arguments.names or name in arguments.names]
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(names, arguments.workdir or Path(temporary))
    facts = machine()
    result = {"models": rows, "right": sum(map(is_right, rows)), "machine": facts}
    if not arguments.names:
        (DOCS / "models.json").write_text(json.dumps(result, indent=1) + "\n")
        (DOCS / "models.md").write_text(page(rows, facts))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
