"""Metrics against hand-computed tables and against scikit-learn where it is not used."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from kdlora.errors import DataError
from kdlora.measure.quality import (
    better,
    confusion,
    count_predictions,
    floor_score,
    per_class_f1,
    quality,
    score_split,
)
from kdlora.vocabulary.task import CLASSIFICATION, MULTILABEL, REGRESSION, TASKS, Task

MRPC, COLA, STSB = TASKS["mrpc"], TASKS["cola"], TASKS["stsb"]
ABC = Task("abc", CLASSIFICATION, ("text",), ("a", "b", "c"), "macro_f1")


def logits(classes: list[int], n_classes: int = 2, gap: float = 2.0) -> np.ndarray:
    return gap * np.eye(n_classes)[classes]


# truth 1: 4 rows of which 3 found; truth 0: 6 rows of which 5 found
TRUTH = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
GUESS = logits([1, 1, 1, 0, 1, 0, 0, 0, 0, 0])


def test_binary_scores_by_hand():
    scores = score_split(MRPC, GUESS, TRUTH)
    tp, fp, fn, tn = 3, 1, 1, 5
    f1, f0 = 2 * tp / (2 * tp + fp + fn), 2 * tn / (2 * tn + fp + fn)
    matthews = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert scores["accuracy"] == pytest.approx(0.8)
    assert scores["f1"] == pytest.approx(f1)
    assert scores["macro_f1"] == pytest.approx((f1 + f0) / 2)
    assert scores["matthews"] == pytest.approx(matthews)
    right = math.log1p(math.exp(-2))  # cross-entropy of a right answer with logits (0, 2)
    assert scores["cross_entropy"] == pytest.approx(0.8 * right + 0.2 * (right + 2))
    assert scores["ece"] == pytest.approx(abs(0.8 - 1 / (1 + math.exp(-2))))
    assert confusion(MRPC, GUESS, TRUTH) == [[5, 1], [1, 3]]
    assert count_predictions(MRPC, GUESS) == {"not_equivalent": 6, "equivalent": 4}
    assert list(scores) == list(MRPC.metrics)


def test_f1_is_of_the_positive_class_wherever_it_stands():
    flipped = Task("x", CLASSIFICATION, ("t",), ("yes", "no"), "f1", positive="yes")
    assert score_split(flipped, GUESS, TRUTH)["f1"] == pytest.approx(10 / 12)
    with pytest.raises(DataError, match="one of yes, no"):
        score_split(
            Task("x", CLASSIFICATION, ("t",), ("yes", "no"), "f1", positive="maybe"),
            GUESS,
            TRUTH,
        )


def test_a_class_that_never_occurs_has_no_f1_and_does_not_count():
    outputs, truth = logits([0, 1, 1, 0], 3), np.array([0, 1, 0, 0])
    assert per_class_f1(ABC, outputs, truth) == pytest.approx({"a": 0.8, "b": 2 / 3})
    assert score_split(ABC, outputs, truth)["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert confusion(ABC, outputs, truth) == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]  # row = truth
    # but one that occurs and is never predicted counts as 0
    assert per_class_f1(ABC, outputs, np.array([0, 1, 2, 0]))["c"] == 0.0


def test_constant_predictions():
    scores = score_split(COLA, logits([1] * 10), TRUTH)
    assert scores["matthews"] == 0.0
    assert scores["accuracy"] == 0.4
    flat = score_split(STSB, np.full(5, 2.7, np.float32), np.arange(5.0))
    assert flat["pearson"] is None
    assert flat["spearman"] is None
    assert flat["rmse"] == pytest.approx(math.sqrt(np.mean((np.arange(5) - 2.7) ** 2)))


def test_float32_noise_around_a_constant_is_no_correlation():
    noise = np.float32(2.7) + np.spacing(np.float32(2.7)) * np.array([0, 1, 0, 1, 2], np.float32)
    assert score_split(STSB, noise, np.arange(5.0))["pearson"] is None
    wide = 2.7 + 1e-4 * np.arange(5)
    assert score_split(STSB, wide, np.arange(5.0))["pearson"] == pytest.approx(1)


def test_regression_scores_by_hand():
    truth, outputs = np.array([1.0, 2.0, 3.0, 4.0]), np.array([[1.0], [4.0], [3.0], [9.0]])
    scores = score_split(STSB, outputs, truth)
    d, t = outputs[:, 0] - 4.25, truth - 2.5
    assert scores["pearson"] == pytest.approx((d @ t) / math.sqrt((d @ d) * (t @ t)))
    assert scores["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert scores["rmse"] == pytest.approx(math.sqrt((0 + 4 + 0 + 25) / 4))
    assert score_split(STSB, outputs[:, 0], truth) == scores


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_outputs_that_are_not_finite_score_none(bad):
    outputs = GUESS.copy()
    outputs[3, 0] = bad
    assert set(score_split(MRPC, outputs, TRUTH).values()) == {None}
    assert confusion(MRPC, outputs, TRUTH) == []
    assert per_class_f1(MRPC, outputs, TRUTH) == {}
    assert count_predictions(MRPC, outputs) is None


def test_an_empty_split_scores_none():
    assert set(score_split(MRPC, np.zeros((0, 2)), np.zeros(0, int)).values()) == {None}


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(2, 60))
def test_against_scikit_learn(seed, n_classes, n):
    rng = np.random.default_rng(seed)
    task = Task("t", CLASSIFICATION, ("x",), tuple("abcde"[:n_classes]), "accuracy")
    outputs, truth = rng.normal(size=(n, n_classes)) * 3, rng.integers(0, n_classes, n)
    scores = score_split(task, outputs, truth)
    guess = outputs.argmax(1)
    e = np.exp(outputs)
    probabilities = e / e.sum(1, keepdims=True)
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(truth, guess))
    assert scores["macro_f1"] == pytest.approx(
        sk.precision_recall_fscore_support(truth, guess, average="macro", zero_division=0)[2]
    )
    assert scores["cross_entropy"] == pytest.approx(
        sk.log_loss(truth, probabilities, labels=range(n_classes))
    )
    table = np.array(confusion(task, outputs, truth), float)
    total, trace = table.sum(), np.trace(table)
    rows, columns = table.sum(1), table.sum(0)
    spread = (total**2 - columns @ columns) * (total**2 - rows @ rows)
    expected = (trace * total - rows @ columns) / math.sqrt(spread) if spread else 0.0
    assert scores["matthews"] == pytest.approx(expected, abs=1e-12)

    order = rng.permutation(n)
    shuffled = score_split(task, outputs[order], truth[order])
    assert shuffled == pytest.approx(scores)


def test_quality_block():
    outputs = {"selection": logits([0, 1]), "report": GUESS}
    block = quality(MRPC, outputs, {"selection": np.array([0, 0]), "report": TRUTH}, n_train=7)
    assert block.n == {"train": 7, "selection": 2, "report": 10}
    assert (block.primary, block.direction, block.score) == ("accuracy", 1, 0.8)
    assert block.splits["selection"]["accuracy"] == 0.5
    assert block.confusion == [[5, 1], [1, 3]]
    assert type(block).model_validate_json(block.model_dump_json()) == block
    with pytest.raises(DataError, match="same splits"):
        quality(MRPC, outputs, {"report": TRUTH}, n_train=7)


def test_regression_quality_has_no_table():
    block = quality(
        STSB,
        {"report": np.array([1.0, 2.0, 4.0])},
        {"report": np.array([1.0, 2.0, 3.0])},
        n_train=1,
    )
    assert block.confusion == []
    assert block.per_class_f1 == {}
    assert block.score == pytest.approx(0.98198, abs=1e-5)


@pytest.mark.parametrize(
    ("a", "b", "direction", "expected"),
    [
        (0.6, 0.5, 1, True),
        (0.6, 0.5, -1, False),
        (0.5, 0.6, -1, True),
        (0.5, 0.5, 1, False),
        (None, 0.5, 1, False),
        (0.5, None, -1, True),
        (None, None, 1, False),
        (math.nan, 0.5, 1, False),
        (0.0, math.nan, 1, True),
    ],
)
def test_better(a, b, direction, expected):
    assert better(a, b, direction) is expected


def test_floor_is_what_ignoring_the_text_scores():
    train = np.array([1, 1, 1, 0])
    assert floor_score(MRPC, train, TRUTH) == 0.4  # class 1 on rows that are 0 six times of ten
    assert floor_score(COLA, train, TRUTH) == 0.0
    assert floor_score(STSB, np.array([1.0, 3.0]), np.array([2.0, 4.0])) == 0.0
    rmse = Task("r", REGRESSION, ("t",), (), "rmse")
    assert floor_score(rmse, np.array([1.0, 3.0]), np.array([2.0, 4.0])) == pytest.approx(2**0.5)
    assert floor_score(MRPC, train, np.zeros(0, int)) is None
    assert floor_score(Task("e", CLASSIFICATION, ("t",), ("a", "b"), "ece"), train, TRUTH) is None


def test_every_problem_with_the_shapes_is_told():
    with pytest.raises(DataError) as caught:
        score_split(MRPC, np.zeros((3, 3)), np.array([0, 1, 2, 5]))
    assert len(caught.value.problems) == 3
    assert "[n, 2]" in str(caught.value)
    assert "2, 5" in str(caught.value)
    with pytest.raises(DataError, match=r"\[n\] or \[n, 1\]"):
        score_split(STSB, np.zeros((3, 2)), np.zeros(3))


def test_no_torch_needed():
    code = "import sys, kdlora.measure.health; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SEVERAL = Task("several", MULTILABEL, ("text",), ("a", "b", "c"), "mean_average_precision")


def test_each_of_several_labels_by_hand():
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]])
    outputs = np.array([[3.0, 1.0, -1.0], [2.0, 2.0, -2.0], [1.0, -1.0, -1.0], [-1.0, -3.0, -4.0]])
    values = {"selection": outputs, "report": outputs}
    block = quality(SEVERAL, values, dict.fromkeys(values, truth), n_train=7)
    a, b, c = block.per_label.values()
    assert (a.true_positive, a.false_positive, a.false_negative, a.true_negative) == (2, 1, 1, 0)
    assert (a.positives, a.answers) == (3, 3)
    assert (a.precision, a.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert a.average_precision == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert (b.precision, b.recall, b.average_precision) == (0.5, 1.0, 1.0)
    assert (c.precision, c.recall, c.average_precision) == (None, None, None)
    assert block.per_class_f1 == {"a": pytest.approx(2 / 3), "b": pytest.approx(2 / 3)}
    assert block.confusion == []
    assert block.splits["report"]["macro_f1"] == pytest.approx(2 / 3)
    assert block.splits["report"]["subset_accuracy"] == 0.25
    assert block.score == pytest.approx((a.average_precision + 1) / 2)
    assert count_predictions(SEVERAL, outputs) == {"a": 3, "b": 2, "c": 0}


def test_the_floor_of_several_labels_is_their_mean_rate():
    train = np.array([[1, 0, 0]] * 9 + [[0, 1, 1]])
    report = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    assert floor_score(SEVERAL, train, report) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("outputs", "labels", "told"),
    [
        (np.zeros((2, 3)), np.zeros(2, int), "labels have shape"),
        (np.zeros((2, 3)), np.zeros((2, 2), int), "labels have shape"),
        (np.zeros((2, 2)), np.zeros((2, 3), int), "outputs have shape"),
        (np.zeros((2, 3)), np.full((2, 3), 2), "labels hold 2, expected 0 or 1 for each label"),
    ],
)
def test_sets_of_labels_that_do_not_fit(outputs, labels, told):
    with pytest.raises(DataError, match=told):
        score_split(SEVERAL, outputs, labels)
