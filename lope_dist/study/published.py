"""The results that a project publishes: a page a study, and one file of what all of them claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from lope_dist.core.errors import LopeError
from lope_dist.core.files import write_atomic
from lope_dist.core.runlog import write_json
from lope_dist.core.side_files import SideFile
from lope_dist.study.cells import Study
from lope_dist.study.plots import study_figures
from lope_dist.study.report import write_markdown
from lope_dist.study.summary import summarize


class _OfStudy(TypedDict):
    title: str
    study: str
    seeds: list[int]
    claims: list[dict[str, Any]]
    recovered: dict[str, dict[str, Any]]


_PUBLISHED = SideFile("results.json", _OfStudy)

_INDEX = """# Results

A page for each study, written by `lope study report STUDY --docs docs`. Beside each page are its
claims in results.json, and in figures.csv every figure by seed, with the file of the run that it is
from. results.json beside this page has the claims of all studies.

| study | seeds | claims held | refuted | open |
| --- | --- | ---: | ---: | ---: |
"""


def publish(study: Study, docs: Path) -> Path:
    """Write `results/STUDY` with a study's page, plots, figures and claims; return the page's path.

    `results.md` and `results.json` are then made anew from all studies in `results`, so a study
    whose runs are gone keeps its page; a damaged file of one is told and left out.
    `results.json`: ``seeds`` and ``claims``, each claim with the study that it is of, and
    ``recovered``: noise -> method -> ``share``, ``ci95``, ``seeds``.

    Raises:
        LopeError: a file of a run that is not valid JSON, losses of different documents, or two
            studies with shares of the same method at the same noise.
    """
    summary = summarize(study)
    of_study = {name: summary[name] for name in _OfStudy.__annotations__}
    folder = docs / "results" / study.path.stem
    others = {f.name: _PUBLISHED.read(f) for f in (docs / "results").glob("*/") if f != folder}
    whole = {name: other for name, other in others.items() if other is not None}
    studies = dict(sorted((whole | {folder.name: of_study}).items()))
    results = {
        "seeds": sorted({seed for one in studies.values() for seed in one["seeds"]}),
        "claims": [{"study": s["study"], **c} for s in studies.values() for c in s["claims"]],
        "recovered": _recovered(studies),
    }
    page = folder / "README.md"
    write_markdown(summary, study_figures(summary), page, folder / "figures.csv")
    write_json(folder / _PUBLISHED.name, of_study)
    write_json(docs / "results.json", results)
    write_atomic(docs / "results.md", _INDEX + "".join(_line(*entry) for entry in studies.items()))
    return page


def _recovered(studies: dict[str, Any]) -> dict[str, dict[str, Any]]:
    shares: dict[str, dict[str, Any]] = {}
    for name, of_study in studies.items():
        for noise, methods in of_study["recovered"].items():
            of_noise = shares.setdefault(noise, {})
            if twice := sorted(of_noise.keys() & methods.keys()):
                raise LopeError(
                    f"results/{name}: another study has shares of {', '.join(twice)} at the noise "
                    f"'{noise}' too; give the noise another name in one of the studies."
                )
            of_noise |= methods
    return shares


def _line(name: str, of_study: dict[str, Any]) -> str:
    verdicts = [claim["held"] for claim in of_study["claims"]]
    counts = [str(verdicts.count(held)) for held in (True, False, None)]
    seeds = ", ".join(map(str, of_study["seeds"]))
    title = f"[{of_study['title']}](results/{name}/README.md)"
    return f"| {' | '.join([title, seeds, *counts])} |\n"
