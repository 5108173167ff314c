"""What README and the pages that explain commands say can be typed, opened and counted so."""

from __future__ import annotations

import csv
import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lope_dist.cli import app
from lope_dist.config.adapter import AdapterConfig
from lope_dist.config.load import load_config
from lope_dist.evaluate.loaded.rows import rows_for

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", *(f"docs/{name}.md" for name in ("training", "recipes", "quickstart")))
README, FINDINGS = (ROOT / "README.md").read_text(), (ROOT / "docs/findings.md").read_text()
TEXT = "\n".join([*((ROOT / page).read_text() for page in PAGES), FINDINGS])
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [
    words
    for language, block in BLOCKS
    if language == "sh"
    for line in block.replace("\\\n", " ").splitlines()
    for part in line.split("&&")
    if (words := shlex.split(part, comments=True))
]
DOCS = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
NAMED_PATHS = sorted(
    set(
        re.findall(r"(?<![\w/.-])(?:configs|launch|eval|docs|lope_dist|tests|bench)/[\w./-]*", TEXT)
    )
)
TABLE = re.findall(r"^\| `(configs/[^`]+)` \|(.*)\|$", TEXT, re.MULTILINE)
OWN_FILES = ("recipe.yaml",)
"""Files that README's reader makes."""
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def of(*starts: str) -> list[list[str]]:
    """Return README's commands that start with one of these words."""
    found = [command for command in COMMANDS if command[0] in starts]
    assert found
    return found


def spelt(command: list[str]) -> str:
    return " ".join(command)


def test_commands_of_every_kind_are_checked() -> None:
    kinds = {"make", "lope", "deepspeed", "torchrun", "python3", "pip", "."}
    kinds.add("launch/ssh.sh")
    assert {command[0] for command in COMMANDS} == kinds


@pytest.mark.parametrize("command", of("lope"), ids=spelt)
def test_lope_commands_are_understood(command: list[str]) -> None:
    verb, *arguments = command[1:]
    group = VERBS[verb]
    while hasattr(group, "commands"):
        verb, *arguments = arguments
        group = group.commands[verb]
    # Everything of a call but the call: unknown options and missing values raise here.
    params = group.make_context(verb, arguments).params
    recipe = params.get("config")
    if recipe and Path(str(recipe)).name not in OWN_FILES:
        shipped = ROOT / recipe if (ROOT / recipe).exists() else recipe
        load_config(shipped, params.get("overrides") or ())
    if params.get("experts"):
        assert rows_for(params["experts"].split(","), AdapterConfig())


def test_every_verb_has_help_and_stands_in_the_readme() -> None:
    assert [verb for verb in VERBS if CliRunner().invoke(app, [verb, "--help"]).exit_code] == []
    assert [verb for verb in VERBS if f"lope {verb}" not in TEXT] == []


@pytest.mark.parametrize("command", of("deepspeed", "torchrun", "launch/ssh.sh"), ids=spelt)
def test_launched_scripts_take_the_arguments(command: list[str]) -> None:
    (script,) = (word for word in command if word.endswith(".py"))
    arguments = command[command.index(script) + 1 :]
    usage = subprocess.run(
        [sys.executable, ROOT / script, "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    options = [word for word in arguments if word.startswith("--")]
    assert set(options) <= set(re.findall(r"--[\w-]+", usage))
    words = [word for word in arguments if not word.startswith("--")]
    load_config(ROOT / words[0], [word for word in words if "=" in word])


@pytest.mark.parametrize("command", of("make"), ids=spelt)
def test_make_targets_and_variables_exist(command: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in command[1:]:
        name, equals, _ = word.partition("=")
        assert re.search(rf"^{name} *{r'[?]=' if equals else ':'}", makefile, re.MULTILINE), word


def test_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = re.findall(r"pip install -e '\.\[([\w,]+)\]'", TEXT)
    table = README.split("| extra |")[1].split("\n\n")[0]
    named = [
        name
        for cell in re.findall(r"^\|([^|]+)\|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", cell)
    ]
    extras = set(project["optional-dependencies"])
    assert installed
    assert extras == set(named)
    assert set(",".join(installed).split(",")) <= extras


def test_named_paths_exist() -> None:
    assert NAMED_PATHS
    assert [path for path in NAMED_PATHS if not (ROOT / path.rstrip(".")).exists()] == []


def test_linked_files_exist() -> None:
    missing = []
    for page in ("README.md", "CONTRIBUTING.md", *DOCS):
        links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
        local = [link for link in links if "://" not in link]
        missing += [(page, link) for link in local if not ((ROOT / page).parent / link).exists()]
    assert missing == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    assert [page for page in DOCS if f"({Path(page).name})" not in index] == ["docs/README.md"]


def test_table_of_recipes_is_complete() -> None:
    files = {
        f"configs/{folder}/{path.name}"
        for folder in ("recipes", "baselines")
        for path in (ROOT / "configs" / folder).glob("*.yaml")
    }
    assert {path for path, _ in TABLE} == files


@pytest.mark.thorough
def test_the_table_of_recipes_is_what_make_docs_writes() -> None:
    script = runpy.run_path(str(ROOT / "docs/write_recipes.py"))
    page = script["PAGE"].read_text()
    assert script["written"](page) == page, "run `make docs` and commit docs/recipes.md"


def test_effects_are_those_of_the_results() -> None:
    """Each `effect [low, high]` is of a claim or a share in docs/results.json, as it is rounded."""
    shown = README[README.index("## What was shown") : README.index("## Hardware")]
    results = json.loads((ROOT / "docs" / "results.json").read_text())
    shares = [share for methods in results["recovered"].values() for share in methods.values()]
    claims = results["claims"] + [{"effect": s["share"], "ci95": s["ci95"]} for s in shares]
    number = r"[+-]?\d+\.\d+"
    found = re.findall(rf"({number})\s+\[({number}), ({number})\]", FINDINGS + shown)
    assert len(found) > 30
    for written in found:
        places = len(written[0].partition(".")[2])
        known = {
            tuple(f"{factor * x:.{places}f}" for x in (claim["effect"], *claim["ci95"]))
            for claim in claims
            if claim["ci95"] is not None
            for factor in (1, 100)  # accuracies are in points
        }
        assert tuple(text.lstrip("+") for text in written) in known, written


def test_the_table_of_trials_is_of_its_figures() -> None:
    """Each loss, and each share of the noise's cost that is recovered."""
    losses: dict[str, dict[str, list[float]]] = {}
    with (ROOT / "docs/results/noise_trials/figures.csv").open() as file:
        for figure in csv.DictReader(file):
            of_row = losses.setdefault(f"{figure['variant']}@{figure['noise']}", {})
            if figure["metric"] == "loss:fresh" and figure["seed"] != "mean":
                of_row.setdefault(figure["row"], []).append(float(figure["value"]))
    results = json.loads((ROOT / "docs/results.json").read_text())
    shares = results["recovered"]["responses_untuned"]
    table = FINDINGS[FINDINGS.index("| trained by | seeds |") :].split("\n\n")[0].splitlines()[2:]
    for group, line in zip(losses, table, strict=True):
        _, _, seeds, written, share, _, _ = (cell.strip() for cell in line.split("|"))
        assert int(seeds) == len(next(iter(losses[group].values())))
        means = [sum(values) / len(values) for values in losses[group].values()]
        assert written.split("; ") == [f"{mean:.3f}" for mean in means]
        if group.startswith("hydralora@"):
            assert share == ("1" if group.endswith("@clean") else "0")
        else:
            known = shares[group.partition("@")[0]]
            low, high = known["ci95"]
            assert share == f"{known['share']:.2f} [{low:.2f}, {high:.2f}]"


def test_pages_are_short_and_plain() -> None:
    checks = runpy.run_path(str(ROOT / "docs/check_pages.py"))
    problems, most = checks["problems"], checks["MOST_LINES"]
    assert {"README.md", "CONTRIBUTING.md", *DOCS} == {
        str(page.relative_to(ROOT)) for page in checks["PAGES"]
    }
    for page in checks["PAGES"]:
        assert problems(page.read_text(), most if page == checks["README"] else None) == [], page
    assert problems("word " * 31)[0].startswith("31 words")
    assert problems("line.\n" * 181, most)[0].startswith("181 lines")
    assert problems("line.\n" * 181) == []
    assert problems("| " + "cell " * 40 + "|\n```sh\n" + "word " * 40 + "\n```\n") == []
