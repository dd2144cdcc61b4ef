"""Every metric against scikit-learn and scipy, and its facts against what it computes."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from kdlora.errors import InputError
from kdlora.vocabulary.metric import (
    METRICS,
    confusion_counts,
    correlation,
    expected_calibration_error,
    f1_by_class,
    metric,
    metric_of_column,
    metrics_of,
)

OF_CLASSES = metrics_of("classification", positive=True, graded=True)
OF_VALUES = metrics_of("regression", graded=True)
COMPUTED = [*dict.fromkeys((*OF_CLASSES, *OF_VALUES))]


def shares(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits)
    return e / e.sum(1, keepdims=True)


def calibration_error(labels: np.ndarray, logits: np.ndarray) -> float:
    """Row by row, as Guo et al. define it."""
    confidence, right = shares(logits).max(1), logits.argmax(1) == labels
    bins = [int(np.ceil(c * 15)) for c in confidence]
    return sum(
        abs(sum(right[i] - confidence[i] for i in range(len(labels)) if bins[i] == b))
        for b in set(bins)
    ) / len(labels)


def recall_at_90(labels: np.ndarray, logits: np.ndarray) -> float:
    """The best of scikit-learn's thresholds."""
    if not (labels == 1).any():
        return math.nan
    precision, recall, _ = sk.precision_recall_curve(labels == 1, shares(logits)[:, 1])
    return max(r for p, r in zip(precision, recall, strict=True) if p >= 0.9 - 1e-12)


def average_precision(labels: np.ndarray, logits: np.ndarray) -> float:
    hits = labels == 1
    return sk.average_precision_score(hits, shares(logits)[:, 1]) if hits.any() else math.nan


def weighted_kappa(labels: np.ndarray, logits: np.ndarray) -> float:
    said = logits.argmax(1)
    if len({*said, *labels}) == 1:  # nothing could be said but that: no chance to agree by
        return math.nan
    grades = range(logits.shape[1])
    return sk.cohen_kappa_score(labels, said, weights="quadratic", labels=grades)


KNOWN = {
    "balanced_accuracy": lambda y, o: sk.balanced_accuracy_score(y, o.argmax(1)),
    "average_precision": average_precision,
    "recall_at_precision_90": recall_at_90,
    "quadratic_weighted_kappa": weighted_kappa,
    "mae": lambda y, o: sk.mean_absolute_error(y, o.argmax(1)),
    "accuracy": lambda y, o: sk.accuracy_score(y, o.argmax(1)),
    "macro_f1": lambda y, o: sk.f1_score(y, o.argmax(1), average="macro", zero_division=0),
    "matthews": lambda y, o: sk.matthews_corrcoef(y, o.argmax(1)),
    "f1": lambda y, o: sk.f1_score(y, o.argmax(1), labels=[1], average=None, zero_division=np.nan)[
        0
    ],
    "cross_entropy": lambda y, o: sk.log_loss(y, shares(o), labels=range(o.shape[1])),
    "ece": calibration_error,
    "pearson": lambda y, o: stats.pearsonr(o, y).statistic,
    "spearman": lambda y, o: stats.spearmanr(o, y).statistic,
    "rmse": lambda y, o: math.sqrt(sk.mean_squared_error(y, o)),
}


def rows(name: str, seed: int, n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and labels that fit a metric; some classes may not occur."""
    rng = np.random.default_rng(seed)
    if name in OF_CLASSES:
        return rng.normal(size=(n, classes)) * 2, rng.integers(0, classes, n)
    return rng.normal(size=n), rng.normal(size=n)


@pytest.mark.filterwarnings("ignore")  # scikit-learn warns of rows that are all of one class
@pytest.mark.parametrize("name", COMPUTED)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 60), st.integers(2, 5))
def test_a_score_is_that_of_scikit_learn_or_scipy(name, seed, n, classes):
    outputs, labels = rows(name, seed, n, classes)
    expected = KNOWN[name](labels, outputs)
    positive = 1 if METRICS[name].needs_positive else None
    score = METRICS[name].score(outputs, labels, positive=positive)
    if score is None:
        assert math.isnan(expected)
    else:
        assert score == pytest.approx(expected, abs=1e-12)
        assert METRICS[name].possible(score)


@pytest.mark.parametrize("name", COMPUTED)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 60), st.integers(2, 5))
def test_what_a_bootstrap_sums_gives_the_score_and_that_of_every_draw(name, seed, n, classes):
    outputs, labels = rows(name, seed, n, classes)
    one, positive = METRICS[name], 1 if METRICS[name].needs_positive else None
    terms = one.terms(outputs, labels, positive=positive)
    whole = one.score(outputs, labels, positive=positive)
    assert terms.score == pytest.approx(math.nan if whole is None else whole, abs=1e-9, nan_ok=True)
    if name == "spearman":
        return  # ranks are those of all rows, not of the draw
    drawn = np.random.default_rng(seed).integers(0, n, n)
    weights = np.bincount(drawn, minlength=n)
    found = one.score(outputs[drawn], labels[drawn], positive=positive)
    again = float(terms.of_weights(weights[None].astype(float))[0])
    if found is not None:
        assert again == pytest.approx(found, abs=1e-7)


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_perfect_answer_has_the_best_score_and_a_wrong_one_a_worse(name):
    labels = np.array([0, 1, 2, 1, 0])
    one, positive = METRICS[name], 1 if METRICS[name].needs_positive else None
    right = one.score(50 * np.eye(3)[labels], labels, positive=positive)
    wrong = one.score(50 * np.eye(3)[(labels + 1) % 3], labels, positive=positive)
    assert right == pytest.approx(one.high if one.direction > 0 else one.low)
    assert (right - wrong) * one.direction > 0


@pytest.mark.parametrize("name", OF_VALUES)
def test_a_perfect_prediction_has_the_best_score_and_a_turned_one_a_worse(name):
    labels = np.array([0.0, 1.0, 3.0, 2.0])
    one = METRICS[name]
    right, wrong = one.score(labels, labels), one.score(-labels, labels)
    assert right == pytest.approx(one.high if one.direction > 0 else one.low)
    assert (right - wrong) * one.direction > 0
    assert one.score(labels[:, None], labels) == right


@pytest.mark.parametrize("name", METRICS)
def test_the_facts_of_a_metric_fit_each_other(name):
    one = METRICS[name]
    assert one.name == name
    assert one.is_known
    assert one.low < one.high
    assert one.direction in (1, -1)
    assert one.in_points == (one.direction > 0)  # points are shares of the best there is
    assert not one.in_points or (one.high == 1 and one.low >= -1)
    assert (one.factor, one.unit) == ((100, "points") if one.in_points else (1, name))
    assert bool(one.kinds) == one.is_computable
    assert not one.is_correlation or one.in_points


def test_an_error_is_never_in_points_however_small_it_is():
    assert not metric("rmse").in_points
    assert metric("rmse").factor == 1


@pytest.mark.parametrize("name", METRICS)
@given(reference=st.floats(0.01, 1), lost=st.floats(-0.5, 0.5), scale=st.floats(1e-3, 1e3))
def test_a_drop_is_in_points_or_a_share_that_no_unit_changes(name, reference, lost, scale):
    one = METRICS[name]
    score = reference - one.direction * lost
    drop = float(one.drop(score, reference))
    assert drop == pytest.approx(100 * lost / (1 if one.in_points else reference), abs=1e-9)
    assert one.drop_unit == ("points" if one.in_points else "%")
    if not one.in_points:
        assert float(one.drop(scale * score, scale * reference)) == pytest.approx(drop)
    worst = one.worst_allowed(reference, abs(drop))
    assert float(one.drop(worst, reference)) == pytest.approx(abs(drop))
    both = one.drop(np.array([score, reference]), np.array([reference, reference]))
    assert both == pytest.approx([drop, 0.0])


def test_any_loss_of_an_error_of_zero_is_endless():
    assert float(metric("rmse").drop(0.1, 0.0)) == math.inf
    assert float(metric("rmse").drop(0.0, 0.0)) == 0.0


@pytest.mark.parametrize(
    ("name", "score", "other", "above"),
    [
        ("accuracy", 0.8432, 0.8424, True), ("accuracy", 0.8432, 0.8431, False),
        ("accuracy", 0.8424, 0.8432, False), ("rmse", 0.300, 0.301, True),
        ("rmse", 0.3001, 0.3003, False), ("rmse", 0.301, 0.300, False),
    ],
)  # fmt: skip
def test_a_score_is_above_another_where_other_numbers_are_shown(name, score, other, above):
    assert metric(name).is_above(score, other) == above


def test_what_a_study_says_of_a_direction_holds():
    unknown = metric("wer")
    assert unknown.is_above(0.5, 0.3)
    assert unknown.directed(-1).is_above(0.3, 0.5)
    assert float(unknown.directed(-1).drop(0.6, 0.5)) == pytest.approx(20)


def test_no_two_metrics_have_one_title():
    assert len({one.title for one in METRICS.values()}) == len(METRICS)


@given(st.text())
def test_an_unknown_name_is_a_metric_that_says_so_and_is_not_in_points(name):
    one = metric(name)
    assert one.is_known == (name in METRICS)
    for empty in (math.nan, None):
        assert not metric(empty).is_known
    assert one.is_known or (one.factor == 1 and one.direction == 1 and one.possible(1e9))


def test_what_a_score_can_be_is_told_of_one_and_of_many_alike():
    """Both ends of the range count, and what rounding makes of them."""
    for one in METRICS.values():
        ends = [end for end in (one.low, one.high) if math.isfinite(end)]
        inside = [end + error for end in ends for error in (0.0, -1e-12, 1e-12)]
        outside = [end + step for end, step in zip((one.low, one.high), (-1e-6, 1e-6), strict=True)
                   if math.isfinite(end)]  # fmt: skip
        values = np.array([*inside, *outside, math.nan])
        expected = [True] * len(inside) + [False] * (len(outside) + 1)
        assert one.possible(values).tolist() == expected
        assert [bool(one.possible(float(value))) for value in values] == expected


def test_a_metric_that_is_not_computed_says_which_ones_are():
    for name in ("bleu", "mse", ""):
        with pytest.raises(InputError, match=f"unknown metric '{name}': expected one of accuracy"):
            metric(name).score(np.zeros((2, 2)), np.zeros(2, int))
        with pytest.raises(InputError, match="unknown metric"):
            metric(name).terms(np.zeros((2, 2)), np.zeros(2, int))


def test_a_metric_of_one_class_needs_that_class():
    with pytest.raises(InputError, match="needs the positive class"):
        metric("f1").score(np.eye(2), np.array([0, 1]))


def test_the_mean_of_two_metrics_is_in_points_where_both_are():
    both = metric("mean of pearson and spearman")
    assert (both.in_points, both.direction, both.low, both.high) == (True, 1, -1, 1)
    assert both.title == "mean of Pearson correlation and Spearman correlation"
    assert metric("mean of accuracy and matthews").low == -0.5
    assert not metric("mean of accuracy and rmse").is_known
    assert not metric("mean of accuracy and bleu").is_known


def test_metrics_of_a_kind_name_f1_only_where_a_class_is_positive():
    assert metrics_of("classification") == (
        "accuracy", "macro_f1", "matthews", "cross_entropy", "ece", "balanced_accuracy"
    )  # fmt: skip
    of_one = {*metrics_of("classification", positive=True)} - {*metrics_of("classification")}
    assert of_one == {"f1", "average_precision", "recall_at_precision_90"}
    assert metrics_of("regression") == ("pearson", "spearman", "rmse", "mae")


def test_only_graded_tasks_have_metrics_of_grades():
    for kind, more in (
        ("classification", {"quadratic_weighted_kappa", "mae"}),
        ("regression", {"quadratic_weighted_kappa"}),
    ):
        assert {*metrics_of(kind, graded=True)} - {*metrics_of(kind)} == more


def test_recall_is_known_at_any_precision_in_whole_per_cent():
    outputs = np.array([[0.0, x] for x in (5, 4, 3, 2, 1, 0)])
    labels = np.array([1, 0, 1, 0, 0, 1])  # precision 1, 1/2, 2/3, 1/2, 2/5, 1/2 from the top
    found = {
        percent: metric(f"recall_at_precision_{percent}").score(outputs, labels, positive=1)
        for percent in (1, 50, 60, 67, 99)
    }
    assert found == pytest.approx({1: 1, 50: 1, 60: 2 / 3, 67: 1 / 3, 99: 1 / 3})
    assert metric("recall_at_precision_80").title == "recall at 80 % precision"
    assert not metric("recall_at_precision_0").is_known
    assert metric_of_column("report.recall_at_precision_80").is_known


def test_numbers_are_rounded_to_grades_that_there_are():
    labels = np.array([1.0, 2.0, 3.0, 3.0])
    one = metric("quadratic_weighted_kappa")
    assert one.score(np.array([-4.0, 2.4, 2.6, 9.0]), labels) == pytest.approx(1.0)
    assert one.score(np.full(4, 2.0), labels) == pytest.approx(0.0)
    assert metric("mae").score(np.array([1.5, 2.0, 3.0, 3.0]), labels) == pytest.approx(0.125)


def test_a_column_of_a_split_tells_its_metric():
    for column in ("report.accuracy", "report_mismatched.accuracy", "selection.accuracy"):
        assert metric_of_column(column) is METRICS["accuracy"]
    for column in ("accuracy", "report.bleu", "history.accuracy", "score"):
        assert metric_of_column(column) is None


def test_constant_outputs_have_no_correlation_and_matthews_is_zero():
    constant, varied = np.full(5, 2.7, np.float32), np.arange(5.0)
    assert correlation(constant, varied) is None
    assert correlation(varied, constant, by_rank=True) is None
    assert metric("matthews").score(np.eye(2)[[1, 1, 1]], np.array([0, 1, 1])) == 0.0


def test_counts_and_f1_by_class_by_hand():
    counts = confusion_counts(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0]), 3)
    assert counts.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert f1_by_class(counts).tolist()[:2] == pytest.approx([0.8, 2 / 3])
    assert math.isnan(f1_by_class(counts)[2])


def test_ece_by_hand_and_bins_closed_on_the_right():
    # confidences 0.6 (right, wrong) and 0.9 (right, right): gaps |0.5 - 0.6|, |1 - 0.9|
    chance = np.array([[0.4, 0.6], [0.4, 0.6], [0.1, 0.9], [0.1, 0.9]])
    truth = np.array([1, 0, 1, 1])
    assert expected_calibration_error(np.log(chance), truth) == pytest.approx(0.1)
    # one bin: mean accuracy 0.75 against mean confidence 0.75
    assert expected_calibration_error(np.log(chance), truth, bins=1) == pytest.approx(0.0)
    # 0.5 ends the first of two bins, so it does not meet 0.75 in the second
    edge = np.log(np.array([[0.5, 0.5], [0.25, 0.75]]))
    assert expected_calibration_error(edge, np.array([1, 1]), bins=2) == pytest.approx(
        (0.5 + 0.25) / 2
    )
    assert expected_calibration_error(edge, np.array([1, 1]), bins=1) == pytest.approx(0.125)


def test_the_facts_are_known_without_numpy():
    code = (
        "import sys; from kdlora.vocabulary.metric import metric; metric('accuracy').unit;"
        "sys.exit(bool({'numpy', 'scipy', 'sklearn', 'pandas', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
