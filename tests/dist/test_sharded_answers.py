"""Answers of a base that is spread over ranks: those of one process, bit for bit."""

from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any

import pytest
from support.launching import REPOSITORY, run_ranks, succeed
from support.questions import all_answers
from support.tiny import save_tiny_t5

from lope_dist.export.run import ExportRequest, export_run

pytestmark = [pytest.mark.dist, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def runs(config_in, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run of a decoder and one of an encoder-decoder, a few steps each."""
    from lope_dist.train.session import train

    folder = tmp_path_factory.mktemp("runs")
    save_tiny_t5(folder / "t5_base")
    short = {"train__stages__poison__max_steps": 2, "train__stages__finetune__max_steps": 2}
    t5 = {"model__name_or_path": str(folder / "t5_base"), "data__packing": False}
    return [
        train(config_in(folder / "llama", **short)),
        train(config_in(folder / "t5", **short | t5)),
    ]


@pytest.fixture(scope="module")
def expected(runs: list[Path], alpaca_file: Path) -> dict:
    """What one process answers."""
    from lope_dist.evaluate.loaded.load import load_run

    found = {run.name: all_answers(load_run(run), str(alpaca_file)) for run in runs}
    return json.loads(json.dumps(found))


def are_close(answers: Any, others: Any) -> bool:
    """Return whether nested answers are equal, numbers to float32's rounding.

    A head that is gathered some rows at a time is a product of another shape, which some BLAS
    kernels sum in another order.
    """
    if isinstance(answers, list):
        return len(answers) == len(others) and all(map(are_close, answers, others))
    return answers == (pytest.approx(others, rel=1e-6) if isinstance(others, float) else others)


@pytest.mark.parametrize(
    "num_ranks", [3, *(pytest.param(num, marks=pytest.mark.thorough) for num in (1, 2, 4))]
)
def test_answers_do_not_depend_on_the_ranks_nor_on_where_the_base_is(
    num_ranks: int, runs: list[Path], expected: dict, alpaca_file: Path, tmp_path: Path
) -> None:
    arguments = ["tests/dist/workers/answers.py", str(alpaca_file), str(tmp_path)]
    paths = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    arguments += map(str, runs)
    succeed(run_ranks(arguments, num_ranks, folder=tmp_path, environment=paths))
    for rank in range(num_ranks):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for name, of_base in found.items():
            for base, fact in of_base.items():
                for kind, answers in fact["answers"].items():
                    is_same = operator.eq if base == "whole" else are_close
                    assert is_same(answers, expected[name][kind]), (rank, name, base, kind)
            assert of_base["sharded"]["held"] <= of_base["whole"]["held"] / num_ranks + 100


@pytest.mark.parametrize("kind", ["merged", pytest.param("peft", marks=pytest.mark.thorough)])
def test_a_base_that_is_spread_over_ranks_is_exported_as_a_whole_one(
    kind: str, runs: list[Path], tmp_path: Path
) -> None:
    run = runs[0]
    whole = ExportRequest(kind, tmp_path / "whole", calibration_rows=8)
    wanted = export_run(run, whole)
    words = ["export", str(run), "--format", kind, "--out", str(tmp_path / "spread")]
    words += ["--calibration-rows", "8", "--base", "sharded", "--json"]
    ended = run_ranks(["-m", "lope_dist.cli", *words], 2, folder=tmp_path)
    succeed(ended)
    printed = ended[0].output
    found, _ = json.JSONDecoder().raw_decode(printed, printed.index("{"))
    assert wanted.pop("comparison") == pytest.approx(found.pop("comparison"), abs=1e-6)
    assert found == wanted
