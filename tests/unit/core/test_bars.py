"""Bars without a terminal: whole lines, few of them."""

from __future__ import annotations

import re

from lope_dist.core import bars


def test_a_short_bar_has_one_line_in_a_file(capsys) -> None:
    assert list(bars.counted(range(1500), "Loading", "tensors")) == list(range(1500))
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d Loading: 1,500 of 1,500 tensors, 0:00:00\n", capsys.readouterr().err
    )


def test_a_bar_that_is_not_kept_or_not_shown_has_none(capsys) -> None:
    for options in ({"is_kept": False}, {"is_shown": False}):
        bar = bars.bar("Reading", None, "rows", **options)
        bar.update()
        bar.close()
    assert capsys.readouterr().err == ""


def test_a_long_bar_has_lines_with_what_is_left(capsys, monkeypatch) -> None:
    monkeypatch.setattr(bars, "EVERY_S", 0.0)
    bar = bars.bar("Scoring", 4, "parts", done=1)
    bar.set_postfix_str("arc, masked", refresh=False)
    bar.update(0.5)
    bar.update(2.5)
    bar.close()
    first, last = capsys.readouterr().err.splitlines()
    assert re.search(r"Scoring: 1\.5 of 4 parts, 0:00:00, ETA 0:00:00, arc, masked$", first)
    assert re.search(r"Scoring: 4 of 4 parts, 0:00:00, arc, masked$", last)


def test_a_bar_that_does_not_move_says_what_runs(capsys, monkeypatch) -> None:
    bar = bars.bar("Study", 2, "steps")
    bar.set_postfix_str("lora train")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(bars, "EVERY_S", 0.0)
    bar.set_postfix_str("lora train: 3/14")
    bar.close()
    assert re.search(r"Study: 0 of 2 steps, 0:00:00, lora train: 3/14\n$", capsys.readouterr().err)


def test_clock() -> None:
    assert [bars.clock(s) for s in (0, 59.6, 3599, 86_399, 90_061)] == [
        "0:00:00", "0:01:00", "0:59:59", "23:59:59", "1 d 01:01:01",
    ]  # fmt: skip
