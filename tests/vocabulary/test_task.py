from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from typing import get_args

import numpy as np
import pytest
import torch

from kdlora.spec.sections import OwnTask
from kdlora.vocabulary.metric import METRICS, metrics_of
from kdlora.vocabulary.task import (
    CLASSIFICATION,
    GLUE,
    KINDS,
    MULTILABEL,
    NO_LABEL,
    REGRESSION,
    TASKS,
    as_number,
    class_name,
)

NAMES = ("1", "a", "b")


def test_the_nine_glue_tasks_have_the_official_primary_metrics():
    primary = {name: TASKS[name].primary for name in GLUE}
    assert primary.pop("cola") == "matthews"
    assert primary.pop("stsb") == "pearson"
    assert set(primary.values()) == {"accuracy"}
    assert len(GLUE) == 9


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_task_is_whole(task):
    assert task.metrics[0] == task.primary
    assert len(set(task.metrics)) == len(task.metrics)
    assert set(task.metrics) <= set(METRICS)
    assert next(iter(task.reports)) == "report"
    assert task.kind.numeric == (task.label_names == ())
    assert task.positive is None or task.positive in task.label_names


def test_paired_metrics_of_the_benchmark_are_reported():
    assert "f1" in TASKS["mrpc"].metrics
    assert "f1" in TASKS["qqp"].metrics
    assert "spearman" in TASKS["stsb"].metrics
    assert list(TASKS["mnli"].reports) == ["report", "report_mismatched"]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1, "1"),
        (1.0, "1"),
        (-2.0, "-2"),
        (2.5, "2.5"),
        ("1.0", "1"),
        ("1.", "1"),
        ("-1.00", "-1"),
        (" pos ", "pos"),
        ("01", "01"),
        ("v1.0", "v1.0"),
        ("1.50", "1.50"),
        (True, "True"),
        (Decimal("3.00"), "3"),
    ],
)
def test_class_name(value, name):
    assert class_name(value) == name


@pytest.mark.parametrize(
    ("value", "number"),
    [("1e3", 1000.0), (" 2 ", 2.0), (3, 3.0), (True, None), ("1_000", None), ("x", None)],
)
def test_as_number(value, number):
    assert as_number(value) == number


def test_names_are_ordered_as_numbers_where_they_are():
    assert CLASSIFICATION.names([10, 2, 1, 2]) == ("1", "2", "10")
    assert CLASSIFICATION.names(["10", "2.0", "-1"]) == ("-1", "2", "10")
    assert CLASSIFICATION.names(["b", "10", "a"]) == ("10", "a", "b")
    assert CLASSIFICATION.names([True, False]) == ("False", "True")


def test_the_module_is_imported_without_numpy_and_torch():
    code = "import sys, kdlora.vocabulary.task; print(*({'numpy', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_study_file_offers_every_kind_there_is():
    offered = get_args(OwnTask.model_fields["kind"].annotation)
    assert set(offered) == {"auto", *KINDS}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_metrics_of_a_kind_are_known_and_its_default_is_one_of_them(kind):
    assert kind.default_metric in metrics_of(kind.name)


def test_labels_are_decoded_and_written_back():
    classes = CLASSIFICATION.decode(["b", " a", 1.0], NAMES)
    assert (classes.tolist(), classes.dtype) == ([2, 1, 0], np.dtype(np.int64))
    assert CLASSIFICATION.write(classes, NAMES) == ["b", "a", "1"]
    numbers = REGRESSION.decode(["1.5", 2], ())
    assert (numbers.tolist(), numbers.dtype) == ([1.5, 2.0], np.dtype(np.float32))
    assert REGRESSION.write(numbers, ()) == [1.5, 2.0]
    several = MULTILABEL.decode([["b", "1"], [], (" a ",), [1.0, "1"]], NAMES)
    assert several.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert several.dtype == np.dtype(np.int64)
    assert MULTILABEL.write(several, NAMES) == [["1", "b"], [], ["a"], ["1"]]
    assert MULTILABEL.names([["b", "a"], [], ["c", "a"]]) == ("a", "b", "c")


def test_what_is_no_label_is_refused_by_name():
    with pytest.raises(ValueError, match="labels z, expected 1, a, b"):
        CLASSIFICATION.decode(["a", "z"], NAMES)
    with pytest.raises(ValueError, match="labels z, expected 1, a, b"):
        MULTILABEL.decode([["a"], ["b", "z"]], NAMES)
    with pytest.raises(ValueError, match="label high, expected a number"):
        REGRESSION.decode([1, "high"], ())


@pytest.mark.parametrize(
    ("kind", "outputs", "labels"),
    [
        (CLASSIFICATION, [[0.0, 2.0], [1.0, 0.0]], [1, 1]),
        (REGRESSION, [[0.5], [3.0]], [0.0, 1.0]),
        (MULTILABEL, [[0.5, -2.0], [3.0, 1.0]], [["0"], []]),
    ],
    ids=str,
)
def test_a_row_without_a_label_costs_nothing_and_moves_nothing(kind, outputs, labels):
    known = torch.from_numpy(kind.decode(labels, ("0", "1")))
    unknown = torch.from_numpy(kind.unlabelled(2, 2))
    logits = torch.tensor(outputs, requires_grad=True)
    mixed = kind.loss(logits, torch.stack([known[0], unknown[1].to(known.dtype)]))
    assert mixed[1] == 0
    assert mixed[0] == kind.loss(logits, known)[0] > 0
    mixed.sum().backward()
    assert logits.grad[1].abs().sum() == 0
    assert logits.grad[0].abs().sum() > 0


def test_the_losses_are_cross_entropy_and_squared_error():
    logits = torch.tensor([[0.0, 0.0], [np.log(3.0), 0.0]])
    losses = CLASSIFICATION.loss(logits, torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([np.log(2), np.log(4)])
    assert REGRESSION.loss(torch.tensor([[1.0]]), torch.tensor([3.0])).tolist() == [4.0]
    assert CLASSIFICATION.loss(logits, torch.tensor([NO_LABEL] * 2)).tolist() == [0.0, 0.0]
    several = MULTILABEL.loss(torch.tensor([[np.log(3.0), 0.0]]), torch.tensor([[1, 0]]))
    assert several.tolist() == pytest.approx([(np.log(4 / 3) + np.log(2)) / 2])


@pytest.mark.parametrize("sign", [1, -1])
def test_two_labels_of_which_each_row_has_exactly_one_are_the_two_classes(sign):
    """Their outputs are each other's negatives: loss, gradient and answers are those of binary."""
    z = torch.tensor([0.3, -1.7, 40.0, 0.0], dtype=torch.float64, requires_grad=True)
    classes = torch.tensor([1, 0, 1, 1])
    binary = CLASSIFICATION.loss(torch.stack([0 * z, z], -1), classes)
    (of_binary,) = torch.autograd.grad(binary.sum(), z)
    both = torch.nn.functional.one_hot(classes, 2)
    several = MULTILABEL.loss(torch.stack([-z, z], -1), both)
    (of_several,) = torch.autograd.grad(several.sum(), z)
    one = MULTILABEL.loss(z[:, None], classes[:, None])
    for found in (several, one):
        assert found.tolist() == pytest.approx(binary.tolist(), abs=1e-12)
    assert of_several.tolist() == pytest.approx(of_binary.tolist(), abs=1e-12)
    outputs = sign * z.detach().numpy()[:3]
    shares = CLASSIFICATION.probabilities(np.stack([0 * outputs, outputs], 1))
    assert MULTILABEL.probabilities(outputs[:, None])[:, 0].tolist() == pytest.approx(
        shares[:, 1].tolist()
    )
    answers = MULTILABEL.decide(np.stack([-outputs, outputs], 1))
    assert answers.argmax(1).tolist() == CLASSIFICATION.decide(shares).tolist()
    assert answers.sum(1).tolist() == [1, 1, 1]


def test_probabilities_are_a_softmax_of_what_the_temperature_leaves():
    outputs = np.array([[0.0, np.log(3.0)], [1000.0, 0.0]], np.float32)
    assert CLASSIFICATION.probabilities(outputs)[0] == pytest.approx([0.25, 0.75])
    assert CLASSIFICATION.probabilities(outputs)[1] == pytest.approx([1.0, 0.0])
    hot = CLASSIFICATION.probabilities(outputs, 1000.0)
    assert hot[0] == pytest.approx([0.5, 0.5], abs=1e-3)
    assert REGRESSION.probabilities(outputs[:, :1]) is None


def test_the_answer_is_the_likeliest_class_or_the_positive_one_from_the_threshold():
    shares = np.array([[0.7, 0.3], [0.4, 0.6]])
    assert CLASSIFICATION.decide(shares).tolist() == [0, 1]
    assert CLASSIFICATION.decide(shares, threshold=0.3).tolist() == [1, 1]
    assert CLASSIFICATION.decide(shares, threshold=0.5, positive=0).tolist() == [0, 1]
    assert CLASSIFICATION.decide(shares, threshold=0.4, positive=0).tolist() == [0, 0]
    three = np.array([[0.5, 0.3, 0.2]])
    assert CLASSIFICATION.decide(three, threshold=0.1).tolist() == [0]
    assert CLASSIFICATION.decide(three, threshold=np.array([0.6, 0.2, 0.2])).tolist() == [1]
    of_two = np.linspace(0, 1, 11)[:, None] * [-1, 1] + [1, 0]
    both = [CLASSIFICATION.decide(of_two, threshold=t) for t in (np.array([0.65, 0.35]), 0.35)]
    assert both[0].tolist() == both[1].tolist()
    assert REGRESSION.decide(np.array([[1.5], [-2.0]])).tolist() == [1.5, -2.0]
    assert REGRESSION.decide(np.array([1.5])).tolist() == [1.5]


def test_labels_are_answered_above_zero_or_from_the_threshold_of_each():
    assert MULTILABEL.decide(np.array([[0.1, 0.0], [-1.0, 2.0]])).tolist() == [[1, 0], [0, 1]]
    shares = np.array([[0.7, 0.3], [0.4, 0.6]])
    assert MULTILABEL.decide(shares, threshold=0.6).tolist() == [[1, 0], [0, 1]]
    assert MULTILABEL.decide(shares, threshold=np.array([0.4, 0.7])).tolist() == [[1, 0], [1, 0]]


def test_a_row_is_right_where_its_class_or_all_of_its_labels_are():
    outputs = np.array([[1.0, -1.0], [1.0, 1.0], [-1.0, -2.0]])
    assert CLASSIFICATION.right(outputs, np.array([0, 1, 0])).tolist() == [True, False, True]
    labels = np.array([[1, 0], [1, 0], [0, 0]])
    assert MULTILABEL.right(outputs, labels).tolist() == [True, False, True]


def test_a_model_that_ignores_the_text_answers_with_the_shares_or_the_mean():
    outputs = CLASSIFICATION.baseline(np.array([0, 0, 0, 1]), 3, 2)
    assert np.exp(outputs).tolist() == [pytest.approx([4 / 7, 2 / 7, 1 / 7])] * 2
    assert REGRESSION.baseline(np.array([1.0, 4.0], np.float32), 1, 3).tolist() == [2.5] * 3
    rates = MULTILABEL.baseline(np.array([[1, 0], [1, 0], [0, 0]]), 2, 2)
    assert MULTILABEL.probabilities(rates).tolist() == [pytest.approx([2.5 / 4, 0.5 / 4])] * 2


def test_labels_that_a_task_has_not_are_told_from_those_it_has():
    assert CLASSIFICATION.valid(np.array([-1, 0, 1, 2, 0.5]), 2).tolist() == [
        False, True, True, False, False,
    ]  # fmt: skip
    assert REGRESSION.valid(np.array([1.0, np.nan, np.inf]), 1).tolist() == [True, False, False]
    assert MULTILABEL.valid(np.array([[0, 1], [2, 0], [-1, -1]]), 2).tolist() == [
        True, False, False,
    ]  # fmt: skip
