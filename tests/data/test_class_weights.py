from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from kdlora.data.class_weights import class_weights, weighting_problems
from kdlora.spec.sections import Training
from kdlora.vocabulary.task import CLASSIFICATION, MULTILABEL, NO_LABEL, TASKS, Task

TASK = Task("tones", CLASSIFICATION, ("text",), ("calm", "glad", "sad"), "macro_f1")
LABELS = np.array([0] * 90 + [1] * 8 + [2] * 2)


def test_balanced_weights_are_those_of_scikit_learn():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    assert [*class_weights("balanced", LABELS, TASK).values()] == pytest.approx(expected)


@pytest.mark.parametrize("wanted", ["balanced", {"sad": 20.0}, {"calm": 0.1, "glad": 3.0}])
def test_the_mean_weight_of_the_training_rows_is_one(wanted):
    weights = np.array([*class_weights(wanted, LABELS, TASK).values()])
    assert weights[LABELS].mean() == pytest.approx(1)


def test_of_named_weights_only_the_ratios_matter_and_the_others_count_one():
    one, ten = (
        class_weights({"sad": 5.0 * f, "glad": f, "calm": f}, LABELS, TASK) for f in (1, 10)
    )
    assert one == pytest.approx(ten)
    assert one == pytest.approx(class_weights({"sad": 5.0}, LABELS, TASK))
    assert one["sad"] / one["calm"] == pytest.approx(5)


def test_rows_without_a_label_and_classes_without_a_row_change_nothing():
    few = np.concatenate([LABELS[:98], [NO_LABEL] * 50])
    found = class_weights("balanced", few, TASK)
    assert found == pytest.approx({"calm": 98 / 2 / 90, "glad": 98 / 2 / 8, "sad": 1.0})
    assert class_weights("balanced", np.array([NO_LABEL]), TASK) == {}
    assert class_weights("none", LABELS, TASK) == {}


def test_a_class_that_the_task_has_not_is_told_with_the_one_that_is_meant():
    (problem,) = weighting_problems(Training(class_weights={"sda": 3}), TASK)
    assert problem.startswith(
        "training.class_weights: task 'tones' has no class 'sda'. Did you mean 'sad'?"
    )
    assert not list(weighting_problems(Training(class_weights="balanced", focal=2), TASK))


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (TASKS["stsb"], "numbers"),
        (Task("t", MULTILABEL, ("text",), ("a", "b"), "macro_f1"), "several labels a row"),
    ],
)
def test_labels_that_are_no_single_classes_are_not_weighted(task, why):
    for training, named in (
        (Training(class_weights="balanced"), "training.class_weights: "),
        (Training(focal=1.0), "training.focal: "),
        (Training(focal=1.0, class_weights={"a": 2}), "training.class_weights and training.focal"),
    ):
        (problem,) = weighting_problems(training, task)
        assert problem.startswith(named)
        assert why in problem
    assert not list(weighting_problems(Training(), task))
