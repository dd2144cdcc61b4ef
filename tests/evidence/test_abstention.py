from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from kdlora.evidence.abstention import (
    COVERAGES,
    answered_at,
    choose_cut,
    lower_bound,
    risk_coverage,
    rows_needed,
    try_cuts,
)


def rows(n: int, seed: int, *, skill: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences and right answers; an answer is right as often as its confidence says."""
    rng = np.random.default_rng(seed)
    confidence = 0.5 + 0.5 * rng.beta(skill, 1.0, n)
    return confidence, rng.random(n) < confidence


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (90, 100), (499, 500)])
def test_the_bound_is_that_of_clopper_and_pearson(right, n):
    low, _ = proportion_confint(right, n, alpha=0.1, method="beta")
    assert lower_bound(right, n, alpha=0.05) == pytest.approx(low)


def test_a_cut_gives_the_rows_above_it_and_their_accuracy():
    confidence, right = rows(400, 1)
    for cut in try_cuts(confidence, right):
        answered, accuracy = answered_at(confidence, right, cut.cut)
        assert (cut.answered, cut.accuracy) == (answered, pytest.approx(accuracy))
        assert cut.lower < cut.accuracy
    assert [cut.coverage for cut in try_cuts(confidence, right)] == pytest.approx(COVERAGES)


def test_the_most_is_answered_that_reaches_the_aim_for_sure():
    confidence, right = rows(3000, 2)
    chosen = choose_cut(confidence, right, aim=0.9)
    tried = try_cuts(confidence, right)
    assert chosen in tried
    assert chosen.lower >= 0.9
    assert all(cut.lower < 0.9 for cut in tried if cut.answered > chosen.answered)


def test_a_model_that_is_good_enough_answers_all():
    confidence, right = rows(3000, 3)
    assert choose_cut(confidence, right, aim=0.5).cut == 0.0
    assert choose_cut(confidence, right, aim=0.5).coverage == 1.0


def test_too_few_rows_promise_nothing():
    n = rows_needed(0.9)
    sure, right = np.linspace(0.6, 0.99, n), np.ones(n, bool)
    assert choose_cut(sure, right, aim=0.9).coverage == 1.0
    assert choose_cut(sure[1:], right[1:], aim=0.9) is None
    assert choose_cut(sure, np.zeros(n, bool), aim=0.9) is None


def test_rows_of_one_confidence_stand_together():
    confidence = np.repeat([0.9, 0.6], [70, 30])
    right = np.repeat([True, False], [70, 30])
    assert {cut.answered for cut in try_cuts(confidence, right)} == {70, 100}


@pytest.mark.parametrize(("aim", "n"), [(0.85, 500), (0.9, 1000), (0.93, 3000)])
def test_the_promise_is_broken_in_no_more_than_one_sample_of_twenty(aim, n):
    """Against the true accuracy above each chosen cut, of models whose confidence is honest."""
    many, _ = rows(400_000, 0)
    broken = promised = 0
    for seed in range(300):
        found = choose_cut(*rows(n, 100 + seed), aim=aim)
        if found is not None:
            promised += 1
            broken += many[many > found.cut].mean() < aim
    assert promised > 30
    assert broken <= 0.05 * 300


def test_a_curve_by_hand():
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    found = risk_coverage(confidence, np.array([True, True, False, True]))
    by_coverage = dict(zip(found.coverage, found.risk, strict=True))
    assert [by_coverage[c] for c in (0.25, 0.5, 0.75, 1.0)] == pytest.approx([0, 0, 1 / 3, 1 / 4])
    assert found.area == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4)


def test_a_curve_does_not_depend_on_the_order_of_rows_of_one_confidence():
    right = np.random.default_rng(4).random(60) < 0.7
    found = risk_coverage(np.full(60, 0.5), right)
    assert found.risk == pytest.approx([1 - right.mean()] * len(COVERAGES))
    assert found == risk_coverage(np.full(60, 0.5), right[::-1])
