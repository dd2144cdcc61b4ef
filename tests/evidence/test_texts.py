"""What texts say of trained models: against closed forms, McNemar's test and known truths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kdlora.evidence.estimator import Design, Nesting, on_these_tasks
from kdlora.evidence.prediction_tests import mcnemar
from kdlora.evidence.texts import (
    PairedRuns,
    StoredTexts,
    on_trained_models,
    pseudo_values,
    text_differences,
    text_scores,
    text_variance,
)
from kdlora.records.predictions import SplitOutputs
from kdlora.vocabulary.metric import metric

ONE = Design(Nesting.of([0], [0]), np.zeros(1, int))


def classes(
    n: int, right: float, rng: np.random.Generator, labels: np.ndarray | None = None
) -> SplitOutputs:
    """Predictions of a classifier of three classes that is right on this share of texts."""
    truth = rng.choice(3, n, p=[0.7, 0.2, 0.1]) if labels is None else labels
    said = np.where(rng.random(n) < right, truth, rng.choice(3, n))
    return SplitOutputs(np.arange(n).astype(object), truth, np.eye(3)[said])


def test_pseudo_values_of_a_mean_are_the_texts_themselves() -> None:
    split = classes(50, 0.8, np.random.default_rng(0))
    right = split.outputs.argmax(1) == split.labels
    terms = metric("accuracy").terms(split.outputs, split.labels)
    np.testing.assert_allclose(pseudo_values(terms), right, atol=1e-9)


@pytest.mark.parametrize("name", ["macro_f1", "matthews", "f1"])
def test_pseudo_values_are_what_leaving_a_text_out_changes(name: str) -> None:
    split = classes(40, 0.7, np.random.default_rng(1))
    terms = metric(name).terms(split.outputs, split.labels, positive=1)
    rest = np.arange(1, 40)
    without = metric(name).terms(split.outputs[rest], split.labels[rest], positive=1).score
    assert pseudo_values(terms)[0] == pytest.approx(40 * terms.score - 39 * without)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_the_spread_of_a_correlation_is_that_of_drawing_texts_anew(name: str) -> None:
    rng = np.random.default_rng(2)
    drawn, told = [], []
    for _ in range(400):
        truth = rng.normal(0, 1, 200)
        split = SplitOutputs(np.arange(200), truth, truth + rng.normal(0, 0.7, 200))
        found = text_scores(split, metric(name), None)
        assert found is not None
        drawn.append(found.score)
        told.append(found.values.var(ddof=1) / 200)
    assert np.mean(told) == pytest.approx(np.var(drawn), rel=0.2)


def paired(a: SplitOutputs, b: SplitOutputs, name: str = "accuracy") -> PairedRuns:
    turn = metric(name).direction * metric(name).factor
    scores = [turn * metric(name).terms(s.outputs, s.labels, positive=1).score for s in (a, b)]
    return PairedRuns("t", (("a", 1.0),), (("b", 1.0),), scores[0], scores[1], name, 1)


def test_two_classifiers_have_the_interval_of_agresti_and_min() -> None:
    rng = np.random.default_rng(3)
    a = classes(300, 0.9, rng)
    b = classes(300, 0.8, rng, a.labels)
    run = paired(a, b)
    texts = text_differences([run], StoredTexts({"a": a, "b": b}))
    found = on_trained_models(np.array([run.score_a - run.score_b]), ONE, texts)
    known = mcnemar(a.outputs.argmax(1) == a.labels, b.outputs.argmax(1) == b.labels)
    half = stats.norm.ppf(0.975) * found.se
    assert found.mean == pytest.approx(known.difference)
    ends = (found.centre - half, found.centre + half)
    assert ends == pytest.approx((known.low, known.high), rel=1e-6)


def test_models_that_answer_alike_are_known_as_well_as_their_texts_allow() -> None:
    a = classes(300, 0.9, np.random.default_rng(4))
    texts = text_differences([paired(a, a)], StoredTexts({"a": a, "b": a}))
    found = on_trained_models(np.zeros(1), ONE, texts)
    assert found.centre == 0
    assert 0.2 < found.se < 0.5  # the rule of three: less than 1 % of texts at 95 %


def test_predictions_of_another_score_are_not_taken_for_these() -> None:
    rng = np.random.default_rng(5)
    a, b = classes(100, 0.9, rng), classes(100, 0.8, rng)
    run = PairedRuns("t", (("a", 1.0),), (("b", 1.0),), 50.0, 50.0, "accuracy", None)
    assert isinstance(text_differences([run], StoredTexts({"a": a, "b": b})), str)
    assert isinstance(text_differences([paired(a, a)], StoredTexts({"a": a})), str)


def test_runs_are_compared_on_the_texts_that_all_of_them_have() -> None:
    rng = np.random.default_rng(6)
    a = classes(120, 0.9, rng)
    b = classes(120, 0.8, rng, a.labels)
    part = b.at(np.arange(20, 120)[::-1])  # fewer, and in another order
    texts = text_differences([paired(a, part)], StoredTexts({"a": a, "b": part}))
    right = [s.outputs.argmax(1) == s.labels for s in (a, b)]
    known = 100.0 * (right[0][20:].astype(float) - right[1][20:])
    np.testing.assert_allclose(sorted(texts.by_task[0][0]), sorted(known), atol=1e-9)


def test_texts_count_once_beside_seeds() -> None:
    """Texts and seeds drawn together: the two parts sum to the variance that a study has."""
    rng = np.random.default_rng(7)
    n, seeds, drawn, told = 60, 4, [], []
    design = Design(Nesting.of([0] * seeds, [0] * seeds), np.arange(seeds))
    for _ in range(2000):
        text, both = rng.normal(0, 3, n), rng.normal(0, 4, (seeds, n))
        values = rng.normal(0, 0.5, (seeds, 1)) + text + both
        drawn.append(values.mean())
        of_seeds = values.mean(1).var(ddof=1) / seeds
        told.append(of_seeds + text_variance(design, (values,)).alone)
    assert np.mean(told) == pytest.approx(np.var(drawn), rel=0.1)


def test_seeds_that_are_equal_by_chance_still_have_an_error() -> None:
    """Three differences of 2.4 points, made by other texts each: whether a claim is made hangs on
    the design, and the error is what seeds do to single texts."""
    values = np.zeros((3, 500))
    for seed in range(3):
        values[seed, seed * 40 : seed * 40 + 26] = 100.0
        values[seed, 200 + seed * 40 : 200 + seed * 40 + 14] = -100.0
    design = Design(Nesting.of([0] * 3, [0] * 3), np.arange(3))
    assert values.mean(1) == pytest.approx(2.4)
    found = text_variance(design, (values,))
    estimate = on_these_tasks(values.mean(1), design, found)
    # 40 of 500 texts differ in each run, no text in two: the variance of a mean over runs
    assert found.in_seeds == pytest.approx(values.var(1).mean() / 500 / 3, rel=0.05)
    assert estimate.se**2 == pytest.approx(sum(found))
    assert estimate.df >= 2
    assert np.isnan(on_these_tasks(np.zeros(3), design, text_variance(design, (0 * values,))).se)


def labelled(n: int, noise: float, rng: np.random.Generator) -> SplitOutputs:
    """Outputs of a model of three labels, of which a text may have any number."""
    truth = (rng.random((n, 3)) < [0.5, 0.2, 0.1]).astype(int)
    return SplitOutputs(np.arange(n), truth, truth - 0.5 + rng.normal(0, noise, truth.shape))


@pytest.mark.parametrize("name", ["mean_average_precision", "macro_f1", "subset_accuracy"])
def test_texts_of_several_labels_have_pseudo_values(name: str) -> None:
    split = labelled(60, 0.8, np.random.default_rng(6))
    found = text_scores(split, metric(name), None)
    rest = np.arange(1, 60)
    without = metric(name).terms(split.outputs[rest], split.labels[rest]).score
    assert found is not None
    assert found.values[0] == pytest.approx(60 * found.score - 59 * without)
    assert text_scores(split, metric("accuracy"), None) is None


def test_the_spread_of_mean_average_precision_is_that_of_drawing_texts_anew() -> None:
    rng = np.random.default_rng(8)
    drawn, told = [], []
    for _ in range(300):
        found = text_scores(labelled(200, 0.7, rng), metric("mean_average_precision"), None)
        assert found is not None
        drawn.append(found.score)
        told.append(found.values.std(ddof=1) / np.sqrt(200))
    assert np.mean(told) == pytest.approx(np.std(drawn), rel=0.15)


def test_a_score_that_jumps_has_no_error_over_texts_and_says_why() -> None:
    own = classes(60, 0.8, np.random.default_rng(9))
    run = PairedRuns(
        "t", (("a", 1.0),), (("b", 1.0),), 50.0, 50.0, "recall_at_precision_80", 1
    )  # fmt: skip
    told = text_differences([run], StoredTexts({"a": own, "b": own}))
    assert isinstance(told, str)
    assert "recall at 80 % precision jumps" in told
