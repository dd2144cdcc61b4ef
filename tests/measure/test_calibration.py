"""Probabilities made honest: against what made the labels, and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from kdlora.measure.calibration import (
    LEAST_ROWS,
    calibrate_teacher,
    calibrated,
    cross_entropy,
    fit_answers,
    fit_label_answers,
)
from kdlora.vocabulary.task import CLASSIFICATION, MULTILABEL


def truths(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels drawn by the probabilities of logits."""
    return (rng.random(len(logits))[:, None] > softmax(logits, axis=1).cumsum(axis=1)).sum(axis=1)


def test_logits_that_claim_too_much_are_scaled_back():
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(4000, 3)) * 2
    labels = truths(honest, rng)
    found = calibrate_teacher(CLASSIFICATION, 3 * honest, labels, answers_alone=False)
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert found.cross_entropy_before == pytest.approx(cross_entropy(3 * honest, labels))
    assert found.cross_entropy_after < found.cross_entropy_before
    assert found.accuracy == (honest.argmax(axis=1) == labels).mean()
    np.testing.assert_allclose(calibrated(3 * honest, found), honest, rtol=0.1, atol=1e-6)
    assert (calibrated(3 * honest, found).argmax(1) == honest.argmax(1)).all()


def test_answers_without_probabilities_get_what_was_true_of_them():
    """A teacher that is right in 95 % of its noes and in 70 % of its yeses."""
    rng = np.random.default_rng(1)
    answers = rng.integers(0, 2, 20_000)
    right = rng.random(len(answers)) < np.where(answers == 0, 0.95, 0.7)
    labels = np.where(right, answers, 1 - answers)
    logits = np.log(np.where(np.arange(2) == answers[:, None], 0.9, 0.1))
    found = calibrate_teacher(CLASSIFICATION, logits, labels, answers_alone=True)
    np.testing.assert_allclose(found.given_answer, [[0.95, 0.05], [0.3, 0.7]], atol=0.01)
    assert found.cross_entropy_after < found.cross_entropy_before
    shares = np.exp(calibrated(logits, found))
    np.testing.assert_allclose(shares[answers == 1][:, 1], 0.7, atol=0.01)


def test_few_answers_are_drawn_towards_the_accuracy_over_all():
    answers = np.array([0] * 30 + [1])
    labels = np.array([0] * 27 + [1] * 3 + [1])
    right = (28 + 1) / (31 + 2)
    shares = fit_answers(answers, labels, 3)
    np.testing.assert_allclose(shares[1, 1], (1 + 10 * right) / 11)
    np.testing.assert_allclose(shares[2, 2], right)  # never answered
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_too_little_gold_calibrates_nothing():
    logits, labels = np.zeros((LEAST_ROWS, 2)), np.arange(LEAST_ROWS) % 2
    assert calibrate_teacher(CLASSIFICATION, logits[1:], labels[1:], answers_alone=True) is None
    assert calibrate_teacher(CLASSIFICATION, logits, labels, answers_alone=True) is not None
    assert (calibrated(logits, None) == logits).all()


def test_labels_without_probabilities_get_what_was_true_of_each():
    """A teacher that finds half of a rare label, all of a common one, and more than there are."""
    rng = np.random.default_rng(2)
    labels = (rng.random((40_000, 2)) < [0.1, 0.5]).astype(np.int64)
    found = rng.random(labels.shape) < np.where(labels == 1, [0.5, 1.0], [0.05, 0.2])
    logits = np.where(found, 2.2, -2.2)
    fit = calibrate_teacher(MULTILABEL, logits, labels, answers_alone=True)
    assert fit.method == "labels"
    rare = [0.05 / (0.05 + 0.9 * 0.95), 0.05 / (0.05 + 0.9 * 0.05)]
    np.testing.assert_allclose(fit.given_answer, [rare, [0, 0.5 / 0.6]], atol=0.015)
    assert fit.cross_entropy_after < fit.cross_entropy_before
    shares = 1 / (1 + np.exp(-calibrated(logits, fit)))
    np.testing.assert_allclose(shares[found[:, 0], 0], rare[1], atol=0.015)
    np.testing.assert_allclose(shares[~found[:, 0], 0], rare[0], atol=0.015)


def test_a_label_of_which_little_was_said_is_drawn_towards_all_labels_together():
    labels = np.array([[1, 0]] * 20 + [[0, 1]])
    said = np.array([[1, 0]] * 18 + [[0, 0]] * 2 + [[0, 1]])
    shares = fit_label_answers(said, labels)
    overall = (19 + 1) / (19 + 2)
    np.testing.assert_allclose(shares[1, 1], (1 + 10 * overall) / 11)
    missed = (2 + 1) / (23 + 2)
    np.testing.assert_allclose(shares[0, 0], (2 + 10 * missed) / (3 + 10))
    assert ((shares > 0) & (shares < 1)).all()
