"""Metrics of rows with several labels against scikit-learn, and what a bootstrap draws of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn import metrics as sk

from kdlora.vocabulary.metric import ECE_BINS, METRICS, metric, metrics_of
from kdlora.vocabulary.terms import RankedTerms

NAMES = metrics_of("multilabel")


def mean_average_precision(y: np.ndarray, o: np.ndarray) -> float:
    known = y.any(axis=0)
    if not known.any():
        return math.nan
    return float(np.mean(sk.average_precision_score(y[:, known], o[:, known], average=None)))


def calibration_error(y: np.ndarray, o: np.ndarray) -> float:
    p, there = expit(o).ravel(), y.ravel()
    bins = np.ceil(p * ECE_BINS).astype(int)
    return sum(abs((there - p)[bins == b].sum()) for b in set(bins.tolist())) / p.size


def cross_entropy(y: np.ndarray, o: np.ndarray) -> float:
    columns = zip(y.T, expit(o).T, strict=True)
    return float(np.mean([sk.log_loss(truth, p, labels=[0, 1]) for truth, p in columns]))


def f1(average: str):
    def score(y: np.ndarray, o: np.ndarray) -> float:
        if y.shape[1] == 1:  # scikit-learn would take a column for two classes
            return sk.f1_score(y[:, 0], o[:, 0] > 0, zero_division=np.nan)
        return sk.f1_score(y, o > 0, average=average, zero_division=np.nan)

    return score


KNOWN = {
    "mean_average_precision": mean_average_precision,
    "macro_f1": f1("macro"),
    "micro_f1": f1("micro"),
    "subset_accuracy": lambda y, o: sk.accuracy_score(y, o > 0),
    "cross_entropy": cross_entropy,
    "ece": calibration_error,
}


def rows(seed: int, n: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Outputs, some of them equal, and labels; some labels and some rows may have none."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, labels)) < rng.random(labels) * 0.6).astype(int)
    return np.round(rng.normal(size=(n, labels)) + truth, 1), truth


def test_the_primary_metric_ranks_and_the_others_count():
    assert NAMES[0] == "mean_average_precision"
    assert set(NAMES) == set(KNOWN)
    assert all(name != "accuracy" for name in NAMES)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("labels", [1, 2, 200])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 40))
def test_a_score_is_that_of_scikit_learn(name, labels, seed, n):
    outputs, truth = rows(seed, n, labels)
    score, expected = metric(name).score(outputs, truth), KNOWN[name](truth, outputs)
    if score is None:
        assert math.isnan(expected)
    else:
        assert score == pytest.approx(expected, abs=1e-12)
        assert METRICS[name].possible(score)


@pytest.mark.parametrize("name", KNOWN)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 40), labels=st.integers(1, 5))
def test_a_draw_is_scored_as_its_rows_are(name, seed, n, labels):
    outputs, truth = rows(seed, n, labels)
    drawn = np.random.default_rng(seed).integers(0, n, (2, n))
    weights = np.stack([np.bincount(one, minlength=n) for one in drawn]).astype(float)
    found = metric(name).terms(outputs, truth).of_weights(weights)
    for score, one in zip(found, drawn, strict=True):
        expected = metric(name).score(outputs[one], truth[one])
        assert score == pytest.approx(math.nan if expected is None else expected, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 30), labels=st.integers(1, 4))
def test_average_precision_without_each_row_is_that_of_the_other_rows(seed, n, labels):
    terms = RankedTerms(*rows(seed, n, labels))
    found = terms.without_each()
    for i in range(n):
        rest = np.arange(n) != i
        expected = RankedTerms(terms.scores[rest], terms.truth[rest]).score
        assert found[i] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_the_score_without_knowledge_is_the_mean_rate_of_the_labels():
    truth = np.array([[1, 0], [1, 0], [0, 1], [0, 0]])
    constant = np.zeros((4, 2))
    assert metric("mean_average_precision").score(constant, truth) == pytest.approx(0.375)
    assert metric("mean_average_precision").score(50.0 * truth - 25, truth) == 1
    assert metric("mean_average_precision").score(constant, 0 * truth) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_answer_has_the_best_score_and_a_wrong_one_a_worse(name):
    truth = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]])
    one = METRICS[name]
    right, wrong = (one.score(turn * 50.0 * (2 * truth - 1), truth) for turn in (1, -1))
    assert right == pytest.approx(one.high if one.direction > 0 else one.low)
    assert (right - wrong) * one.direction > 0
