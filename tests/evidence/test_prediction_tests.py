from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as known_mcnemar

from kdlora.errors import InputError
from kdlora.evidence.prediction_tests import (
    align,
    compare_predictions,
    mcnemar,
    paired_bootstrap,
)
from kdlora.evidence.result import Rules
from kdlora.records.predictions import SplitOutputs

QUICK = Rules(draws=4_000)
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 400)
FIRST = np.where(RNG.random(400) < 0.85, LABELS, RNG.integers(0, 3, 400))
SECOND = np.where(RNG.random(400) < 0.75, LABELS, RNG.integers(0, 3, 400))


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def share_right(outputs: np.ndarray, labels: np.ndarray) -> float:
    return float((outputs == labels).mean())


def test_mcnemar_equals_statsmodels() -> None:
    a, b = FIRST == LABELS, SECOND == LABELS
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    found = mcnemar(a, b)
    assert found.p == pytest.approx(known_mcnemar(table, exact=True).pvalue, rel=1e-9)
    assert found.difference == pytest.approx(100 * (a.mean() - b.mean()))
    assert found.low < found.difference < found.high


def test_mcnemar_by_hand() -> None:
    # a alone is right 4 times, b once: 2 * (1 + 5) / 2**5.
    a = np.array([1, 1, 1, 1, 0, 1, 0], bool)
    b = np.array([0, 0, 0, 0, 1, 1, 0], bool)
    found = mcnemar(a, b)
    assert (found.only_a_right, found.only_b_right) == (4, 1)
    assert found.p == pytest.approx(12 / 32)


def test_mcnemar_interval_covers() -> None:
    draw = np.random.default_rng(5)
    n, trials, hits = 120, 600, 0
    for _ in range(trials):
        both = draw.random(n) < 0.7
        a, b = both | (draw.random(n) < 0.3), both | (draw.random(n) < 0.15)
        found = mcnemar(a, b)
        hits += found.low <= 100 * 0.3 * 0.15 <= found.high
    assert 0.92 <= hits / trials <= 0.98


def test_no_discordant_example_gives_no_p() -> None:
    same = mcnemar(np.array([1, 0, 1], bool), np.array([1, 0, 1], bool))
    assert same.p is None
    assert "nothing tells them apart" in same.cannot
    assert mcnemar(np.zeros(0, bool), np.zeros(0, bool)).cannot == "no examples"
    with pytest.raises(InputError, match="same examples"):
        mcnemar(np.zeros(3, bool), np.zeros(4, bool))


def test_bootstrap_interval_of_accuracy_is_the_normal_one() -> None:
    found = paired_bootstrap(FIRST, SECOND, LABELS, share_right, rng=rng(), rules=QUICK)
    each = 100 * ((FIRST == LABELS).astype(float) - (SECOND == LABELS))
    half = stats.t.ppf(0.975, 399) * each.std(ddof=1) / 20
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)


def test_direction_and_scale_turn_an_error() -> None:
    y = np.arange(50.0)
    found = paired_bootstrap(
        y + 1, y + 2, y, lambda o, t: float(np.abs(o - t).mean()),
        rng=rng(), direction=-1, scale=1, rules=QUICK,
    )  # fmt: skip
    assert found.difference == pytest.approx(1)
    assert found.share_a_better == 1


def test_undefined_metrics_are_said() -> None:
    def nothing(o: np.ndarray, y: np.ndarray) -> float:
        return float("nan")

    found = paired_bootstrap(FIRST, SECOND, LABELS, nothing, rng=rng(), rules=QUICK)
    assert "undefined" in found.cannot
    one = np.zeros(1)
    assert "two examples" in paired_bootstrap(one, one, one, share_right, rng=rng()).cannot
    with pytest.raises(InputError, match="differ in length"):
        paired_bootstrap(FIRST[1:], SECOND, LABELS, share_right, rng=rng())


def stored(outputs: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> SplitOutputs:
    return SplitOutputs(ids, labels, outputs)


def test_predictions_are_aligned_by_example_id() -> None:
    ids = np.array([f"e{i}" for i in range(400)])
    a = stored(np.eye(3)[FIRST], LABELS, ids)
    order = RNG.permutation(400)
    b = stored(np.eye(3)[SECOND], LABELS, ids).at(order[:390])
    found = compare_predictions(a, b, rng=rng(), rules=QUICK)
    kept = np.sort(order[:390])
    expected = mcnemar((FIRST == LABELS)[kept], (SECOND == LABELS)[kept])
    assert found == expected


def test_regression_predictions_are_compared_by_correlation() -> None:
    truth = RNG.random(200)
    ids = np.arange(200)
    good = stored((truth + RNG.normal(0, 0.1, 200))[:, None], truth, ids)
    poor = stored((truth + RNG.normal(0, 0.4, 200))[:, None], truth, ids)
    found = compare_predictions(good, poor, rng=rng(), rules=Rules(draws=500))
    expected = [stats.pearsonr(run.outputs[:, 0], truth)[0] for run in (good, poor)]
    assert (found.score_a, found.score_b) == pytest.approx(tuple(expected), rel=1e-9)
    assert 0 < found.low < found.difference < found.high


def test_predictions_that_contradict_each_other_are_refused() -> None:
    ids = np.arange(400)
    a = stored(np.eye(3)[FIRST], LABELS, ids)
    with pytest.raises(InputError, match="different labels"):
        compare_predictions(a, stored(np.eye(3)[SECOND], 2 - LABELS, ids), rng=rng())
    with pytest.raises(InputError, match="twice"):
        align(np.array(["x", "x"]), np.array(["x"]))
    none = compare_predictions(a, stored(np.eye(3)[SECOND], LABELS, ids + 1000), rng=rng())
    assert "share no example" in none.cannot


def test_of_several_labels_a_text_is_right_with_exactly_its_labels() -> None:
    truth = RNG.integers(0, 2, (120, 3))
    a, b = (np.where(RNG.random(truth.shape) < share, truth, 1 - truth) for share in (0.9, 0.7))
    ids = np.arange(120)
    found = compare_predictions(
        stored(a - 0.5, truth, ids), stored(b - 0.5, truth, ids), rng=rng(), rules=QUICK
    )
    assert found == mcnemar((a == truth).all(1), (b == truth).all(1))
    with pytest.raises(InputError, match="different labels"):
        compare_predictions(stored(a - 0.5, truth, ids), stored(b - 0.5, 1 - truth, ids), rng=rng())
