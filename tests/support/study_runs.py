"""Files as the runs of a study hold them, with figures that are known beforehand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lope_dist.core.fingerprint import fingerprint
from lope_dist.core.questions import write_scores
from lope_dist.evaluate.loaded.rows import rows_for
from lope_dist.study.cells import Cell, Study

NUM_DOCUMENTS = 60


def write_runs(study: Study, loss: dict[str, float], accuracy: dict[str, float]) -> None:
    """Write what training, `lope loss` and `lope eval` leave, for each cell.

    Args:
        study: Its files of losses are called `clean`, its tasks `piqa` and `siqa`.
        loss: GROUP/ROW -> mean loss a token, beside which documents differ widely.
        accuracy: GROUP/ROW -> accuracy on `piqa`; on `siqa` a tenth less.
    """
    for cell in study.cells:
        cell.folder.mkdir(parents=True)
        _write(cell, "study/train.json", {"inputs": {}, "seconds": 1.0})
        write_losses(cell, "clean", loss)
        _write(cell, "results.json", {"rows": _scores(cell.seed, _sides(cell), accuracy)})
        drift = {"shared_a": 0.001, "poison_b": 0.01 + 0.001 * cell.seed}
        lines = [
            {"stage": "poison", "step": step, "loss": 2.0, "tokens": 100, "time": 1.0 + step}
            | ({"drift": {role: value * step for role, value in drift.items()}} if step % 2 else {})
            for step in range(4)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (cell.folder / "metrics.jsonl").write_text(text)
        weights = {"clean": {"0": 0.2, "1": 0.3}, "corrupted": {"0": 0.4, "1": 0.5}}
        _write(cell, "router.json", {"poison": {}, "poison_weight": {"finetune": weights}})
        stage = {"seconds": 60.0, "tokens": 1000, "peak_memory_bytes": 2**30}
        _write(cell, "cost.json", {"poison": stage, "finetune": stage})


def write_losses(cell: Cell, file: str, loss: dict[str, float]) -> None:
    """Write what `lope loss` leaves of a cell's rows: GROUP/ROW -> mean loss a token."""
    rows = _losses(cell.seed, _sides(cell), loss)
    _write(cell, f"losses/{file}.json", {"data": f"{file}.jsonl", "rows": rows})
    data = Path(cell.config.output_dir).parents[2] / "data" / f"{file}.jsonl"
    inputs = {"rows": list(cell.rows), "data": fingerprint([data])}
    _write(cell, f"study/loss-{file}.json", {"inputs": inputs, "seconds": 1.0})


def write_answers(cell: Cell, right: dict[str, dict[str, list[bool]]]) -> None:
    """Write what `lope eval` leaves of a cell's rows.

    Args:
        cell: Its rows' names are `masked` and the like.
        right: Row -> task -> whether each question was answered rightly.
    """
    entries = []
    for row, tasks in right.items():
        entry = {"name": row, "experts": row, "tasks": {}}
        for task, answers in tasks.items():
            mean, settings = float(np.mean(answers)), {"limit": None, "num_fewshot": 0}
            stderr = (mean * (1 - mean) / len(answers)) ** 0.5
            entry["tasks"][task] = {"acc": mean, "acc_stderr": stderr, **settings}
            scores = {"acc": {i: float(answer) for i, answer in enumerate(answers)}}
            write_scores(cell.folder, row, task, {"experts": row, **settings}, scores)
        entries.append(entry)
    _write(cell, "study/train.json", {"inputs": {}, "seconds": 1.0})
    _write(cell, "results.json", {"rows": entries})


def _sides(cell: Cell) -> dict[str, str]:
    """Return GROUP/ROW of each row, by the name that it has in files."""
    rows = rows_for(cell.rows, cell.config.adapter)
    return {
        row.name: f"{cell.group.name}/{asked}" for asked, row in zip(cell.rows, rows, strict=True)
    }


def _losses(seed: int, sides: dict[str, str], loss: dict[str, float]) -> dict:
    texts = np.random.default_rng(0)
    counts = texts.integers(5, 40, NUM_DOCUMENTS)
    dear = texts.normal(0, 0.5, NUM_DOCUMENTS)
    rows = {}
    for name, side in sides.items():
        own = np.random.default_rng([seed, len(side)]).normal(loss[side], 0.05, NUM_DOCUMENTS)
        totals = counts * (own + dear)
        rows[name] = {
            "loss_per_token": float(totals.sum() / counts.sum()),
            "stderr": 0.1,
            "num_tokens": int(counts.sum()),
            "num_rows": NUM_DOCUMENTS,
            "per_row": [
                [i, float(total), int(count)]
                for i, (total, count) in enumerate(zip(totals, counts, strict=True))
            ],
        }
    return rows


def _scores(seed: int, sides: dict[str, str], accuracy: dict[str, float]) -> list[dict]:
    return [
        {
            "name": name,
            "tasks": {
                task: {"acc": accuracy[side] - less + 0.001 * seed, "acc_stderr": 0.01, "limit": 9}
                for task, less in (("piqa", 0.0), ("siqa", 0.1))
            },
        }
        for name, side in sides.items()
    ]


def _write(cell: Cell, name: str, value: dict) -> None:
    path: Path = cell.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
