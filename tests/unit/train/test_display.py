"""The lines of a stage in a file."""

from __future__ import annotations

import re

from lope_dist.train.stage import display
from lope_dist.train.stage.display import StageDisplay

LINE = re.compile(
    r"\d\d:\d\d:\d\d (?P<stage>\S+) (?P<step>\d+)/(?P<steps>\d+) loss [\d.]+, lr [\d.e-]+, "
    r"(?P<rate>[\d,]+) tokens/s, memory [\d.]+ [KMGT]iB, ETA (?P<eta>[\d: d]+)"
    r"(, of the run (?P<run>[\d: d]+))?"
)


def lines_of(monkeypatch, capsys, seconds: list[float], **settings) -> list[re.Match[str]]:
    """Show steps that take so many seconds each; return their lines."""
    now = [1000.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    first = settings.get("first", 0)
    shown = StageDisplay("poison", **{"num_steps": len(seconds), "first": first} | settings)
    for step, took in enumerate(seconds, start=first):
        now[0] += took
        shown.step(step, 2.0, 1e-4, tokens=300)
    shown.close()
    lines = [LINE.fullmatch(line) for line in capsys.readouterr().err.splitlines()]
    assert all(lines)
    return [line for line in lines if line]


def test_first_and_last_step_have_a_line_and_those_in_between_by_time(monkeypatch, capsys) -> None:
    lines = lines_of(monkeypatch, capsys, [30.0] + [3.0] * 24, later_steps=10, every_s=20)
    assert [int(line["step"]) for line in lines] == [1, 8, 15, 22, 25]
    assert [line["rate"] for line in lines] == ["10", "100", "100", "100", "100"]
    # The first step is slower than those to come, and counts only as long as it is the only one.
    assert [line["eta"] for line in lines] == [
        "0:12:00",
        "0:00:51",
        "0:00:30",
        "0:00:09",
        "0:00:00",
    ]
    assert [line["run"] for line in lines][-2:] == ["0:00:39", "0:00:30"]


def test_a_resumed_last_stage_tells_of_itself_alone(monkeypatch, capsys) -> None:
    lines = lines_of(
        monkeypatch, capsys, [2.0] * 3, num_steps=9, first=6, later_steps=0, every_s=60
    )
    assert [int(line["step"]) for line in lines] == [7, 9]
    assert [line["run"] for line in lines] == [None, None]
