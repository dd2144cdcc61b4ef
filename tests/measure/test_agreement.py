from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from kdlora.errors import DataError
from kdlora.measure.agreement import agreement, impossible
from kdlora.records.plausible import agreement_bounds
from kdlora.records.record import Agreement
from kdlora.vocabulary.task import CLASSIFICATION, MULTILABEL, TASKS, Task

SST2, STSB = TASKS["sst2"], TASKS["stsb"]


def task_of(n_classes: int) -> Task:
    return Task("t", CLASSIFICATION, ("x",), tuple("abcdef"[:n_classes]), "accuracy")


def one_hot(classes, n_classes: int) -> np.ndarray:
    return np.eye(n_classes)[np.asarray(classes)]


def test_by_hand():
    truth = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    student = one_hot([1, 1, 0, 0, 0, 0, 1, 1], 2)  # 5 of 8 right
    teacher = one_hot([1, 1, 1, 0, 0, 0, 0, 1], 2)  # 7 of 8 right
    found = agreement(SST2, student, teacher, truth, teacher_run_id="T")
    assert found.agreement == 6 / 8
    assert found.chance == pytest.approx(0.5 * 0.5 + 0.5 * 0.5)  # both say 1 half of the time
    assert found.kappa == pytest.approx((0.75 - 0.5) / 0.5)
    assert (found.lower_bound, found.upper_bound) == (0.5, 0.75)
    assert (found.teacher_score, found.teacher_run_id) == (7 / 8, "T")
    assert found.pearson is None


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 40), st.floats(0, 1))
def test_always_within_its_bounds(seed, n_classes, n, copied):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n_classes, n)
    teacher = rng.integers(0, n_classes, n)
    student = np.where(rng.random(n) < copied, teacher, rng.integers(0, n_classes, n))
    task = task_of(n_classes)
    outputs = one_hot(student, n_classes), one_hot(teacher, n_classes)
    found = agreement(task, *outputs, truth, teacher_run_id="T")
    assert not impossible(found)
    assert found.lower_bound <= found.agreement <= found.upper_bound

    swapped = agreement(task, *reversed(outputs), truth, teacher_run_id="T")
    assert swapped.kappa == pytest.approx(found.kappa)
    assert swapped.agreement == found.agreement
    if found.kappa is not None:
        reference = cohen_kappa_score(student, teacher, labels=list(range(n_classes)))
        assert found.kappa == pytest.approx(reference, abs=1e-12)

    order = rng.permutation(n)
    again = agreement(task, *(o[order] for o in outputs), truth[order], teacher_run_id="T")
    mine, theirs = (one.model_dump(exclude={"per_label"}) for one in (again, found))
    assert mine == pytest.approx(theirs)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_bounds_are_the_tightest(n_classes):
    """They are the extremes over every pair of classifiers on four rows."""
    n = 4
    seen: dict[tuple[int, int], list[float]] = {}
    for a in itertools.product(range(n_classes), repeat=n):
        for b in itertools.product(range(n_classes), repeat=n):  # the truth is class 0 throughout
            key = a.count(0), b.count(0)
            seen.setdefault(key, []).append(sum(x == y for x, y in zip(a, b, strict=True)) / n)
    for (right_a, right_b), found in seen.items():
        assert agreement_bounds(right_a / n, right_b / n, n_classes) == (min(found), max(found))


def test_a_published_figure_that_cannot_be():
    """16.8 % agreement of a student with accuracy 0.836 would take a teacher below 0.332."""
    lower, upper = agreement_bounds(0.836, 0.9, 2)
    stated = Agreement(teacher_run_id="T", agreement=0.168, lower_bound=lower, upper_bound=upper)
    assert impossible(stated)
    lower, upper = agreement_bounds(0.836, 0.331, 2)
    assert not impossible(stated.model_copy(update={"lower_bound": lower, "upper_bound": upper}))
    lower, upper = agreement_bounds(0.836, 0.333, 2)
    closely = stated.model_copy(update={"lower_bound": lower, "upper_bound": upper})
    assert impossible(closely)
    assert not impossible(closely, tolerance=0.0015)


def test_too_high_an_agreement_is_impossible_too():
    lower, upper = agreement_bounds(0.9, 0.6, 3)
    assert (lower, upper) == (pytest.approx(0.5), pytest.approx(0.7))
    assert impossible(Agreement(teacher_run_id="T", agreement=0.71, upper_bound=upper))
    assert impossible(Agreement(teacher_run_id="T", agreement=83.6))
    assert not impossible(Agreement(teacher_run_id="T"))


def test_bounds_want_shares():
    with pytest.raises(DataError, match="not per cent"):
        agreement_bounds(83.6, 0.9, 2)


def test_two_constant_answers_have_no_kappa():
    same = one_hot([1, 1, 1], 2)
    found = agreement(SST2, same, same, np.array([0, 1, 1]), teacher_run_id="T")
    assert (found.agreement, found.chance, found.kappa) == (1, 1, None)
    other = agreement(SST2, same, 1 - same, np.array([0, 1, 1]), teacher_run_id="T")
    assert (other.agreement, other.chance, other.kappa) == (0, 0, 0)


def test_regression_compares_the_predictions():
    student, teacher = np.array([1.0, 2.0, 4.0]), np.array([[3.0], [2.0], [0.0]])
    found = agreement(STSB, student, teacher, np.array([3.0, 2.0, 0.0]), teacher_run_id="T")
    assert found.pearson == pytest.approx(-1)
    assert found.teacher_score == pytest.approx(1)
    assert found.agreement is None
    assert found.lower_bound is None


def test_outputs_that_are_not_finite_agree_on_nothing():
    good = one_hot([0, 1], 2)
    found = agreement(SST2, good * np.nan, good, np.array([0, 1]), teacher_run_id="T")
    assert (found.agreement, found.kappa, found.teacher_score) == (None, None, 1.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(5, 60))
def test_sets_of_labels_agree_as_classes_do_and_each_label_as_two(seed, labels, n):
    rng = np.random.default_rng(seed)
    names = tuple(f"l{i}" for i in range(labels))
    task = Task("own", MULTILABEL, ("t",), names, "mean_average_precision")
    truth = rng.integers(0, 2, (n, labels))
    s, t = (np.where(rng.random((n, labels)) < 0.8, truth, 1 - truth) - 0.5 for _ in range(2))
    found = agreement(task, s, t, truth, teacher_run_id="T")
    assert found.agreement == pytest.approx(((s > 0) == (t > 0)).all(1).mean())
    assert found.lower_bound <= found.agreement <= found.upper_bound
    assert not impossible(found)
    for i, one in enumerate(found.per_label.values()):
        assert one.lower_bound <= one.agreement <= one.upper_bound
        two = Task("two", CLASSIFICATION, ("t",), ("no", "yes"), "accuracy")
        sides = [np.stack([-x[:, i], x[:, i]], 1) for x in (s, t)]
        alone = agreement(two, *sides, truth[:, i], teacher_run_id="T")
        assert one.model_dump() == {k: getattr(alone, k) for k in one.model_dump()}
    if labels == 1:
        only = found.per_label["l0"]
        assert (found.agreement, found.lower_bound) == (only.agreement, only.lower_bound)
        assert found.kappa == pytest.approx(only.kappa) if only.kappa else True
