"""AUROC, precision and ROC against what counting by hand gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lope_dist.evaluate.noisy_rows.detection import (
    SHORT_TOKENS,
    auroc,
    detection,
    precision_at,
    roc,
)

TYPO = {"operation": "keyboard", "field": "instruction", "count": 1}
TYPOS = {"operation": "keyboard", "field": "response", "count": 3}
LABEL = {"operation": "wrong_label", "field": "response", "count": 1}


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(1)
    noisy, clean = rng.integers(2, 9, 30).astype(float), rng.integers(0, 7, 40).astype(float)
    pairs = itertools.product(noisy, clean)
    by_hand = np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])
    area, _ = auroc(noisy, clean)
    assert area == pytest.approx(by_hand)
    assert auroc(clean, noisy)[0] == pytest.approx(1 - by_hand)


def test_the_areas_error_is_that_of_repeated_samples() -> None:
    rng = np.random.default_rng(2)
    draws = [auroc(rng.exponential(2.0, 60), rng.exponential(1.0, 90)) for _ in range(600)]
    areas, errors = map(np.array, zip(*draws, strict=True))
    assert errors.mean() == pytest.approx(areas.std(), rel=0.1)


def test_precision_counts_the_highest_scores() -> None:
    scores = np.array([0.1, 0.9, 0.8, 0.4, 0.7])
    is_noisy = np.array([True, True, False, False, True])
    assert [precision_at(scores, is_noisy, k) for k in (1, 2, 3, 5)] == pytest.approx(
        [1.0, 0.5, 2 / 3, 0.6]
    )


def test_rows_that_tie_for_the_last_places_count_by_their_chance() -> None:
    scores, is_noisy = (
        np.array([1.0, 0.0, 0.0, 0.0, 0.0]),
        np.array([True, True, False, True, True]),
    )
    for order in itertools.permutations(range(5)):
        rows = list(order)
        shares = [precision_at(scores[rows], is_noisy[rows], k) for k in (1, 2, 3, 5)]
        assert shares == pytest.approx([1.0, 1.75 / 2, 2.5 / 3, 4 / 5])


def test_the_curve_encloses_the_area_and_ties_make_it_straight() -> None:
    rng = np.random.default_rng(3)
    is_noisy = rng.random(4000) < 0.4
    scores = rng.normal(is_noisy * 1.0)
    area, _ = auroc(scores[is_noisy], scores[~is_noisy])
    assert np.trapezoid(roc(scores, is_noisy), dx=0.01) == pytest.approx(area, abs=0.01)
    assert roc(np.zeros(4000), is_noisy) == pytest.approx(np.linspace(0, 1, 101), abs=1e-4)


def test_groups_hold_the_rows_that_they_say() -> None:
    truth = [[], [], [TYPO], [TYPOS], [LABEL], [TYPO, LABEL], []]
    lengths = [5, 50, 60, 70, 8, 9, 60]
    found = detection([{"x": float(n)} for n in range(7)], truth, lengths)
    assert (found["num_noisy"], found["num_clean"]) == (4, 3)
    sizes = {name: (g["num_noisy"], g["num_clean"]) for name, g in found["groups"].items()}
    assert SHORT_TOKENS == 20
    assert sizes == {
        "all": (4, 3),
        "short": (2, 1),  # clean rows must be short too
        "one_hit": (1, 3),  # a whole answer is no single word
        "operation: keyboard": (2, 3),  # not where another operation is at work too
        "operation: wrong_label": (1, 3),
        "field: instruction": (1, 3),
        "field: response": (2, 3),
    }
    # scores are the rows' numbers; clean are 0, 1 and 6
    assert found["groups"]["operation: keyboard"]["auroc"]["x"] == pytest.approx(4 / 6, abs=1e-4)
    assert found["precision_at"]["x"] == {"4": 0.75}


def test_without_noisy_or_clean_rows_there_is_nothing_to_tell_apart() -> None:
    for truth in ([[], []], [[TYPO], [TYPO]]):
        found = detection([{"x": 0.0}, {"x": 1.0}], truth, [3, 3])
        assert found["groups"] == {}
        assert "roc" not in found


def test_a_row_without_a_value_for_a_score_does_not_count() -> None:
    scores = [{"x": 0.0, "y": 1.0}, {"x": 1.0, "y": None}, {"x": 2.0, "y": 2.0}]
    found = detection(scores, [[], [TYPO], [TYPO]], [5, 5, 5])
    assert (found["num_noisy"], found["num_clean"]) == (1, 1)
    assert found["groups"]["all"]["auroc"] == {"x": 1.0, "y": 1.0}
