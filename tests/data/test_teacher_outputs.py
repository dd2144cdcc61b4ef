from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from kdlora.data.examples import Examples, ids_of_keys, ids_of_texts
from kdlora.data.teacher_outputs import read_teacher_outputs
from kdlora.errors import DataError
from kdlora.spec.distillation import TeacherOutputs
from kdlora.spec.fingerprint import hash_file
from kdlora.spec.run import OutputsRef
from kdlora.vocabulary.task import MULTILABEL, TASKS, Task
from tests.harness.moods import write_csv

SST2, STSB = TASKS["sst2"], TASKS["stsb"]


def reference(path, kind="probabilities", text=("sentence",), **changes) -> OutputsRef:
    return OutputsRef(file=str(path), kind=kind, text=text, fingerprint=hash_file(path), **changes)


def examples(*texts: str) -> Examples:
    column = list(texts)
    return Examples(ids_of_texts("sst2", [column]), (column,), np.zeros(len(column), np.int64))


def test_probabilities_become_their_logarithms_in_the_tasks_order(tmp_path):
    path = write_csv(
        tmp_path / "t.csv", positive=[0.8, 1, 0.5], sentence=["a", "b", "c"], negative=[0.2, 0, 0.5]
    )
    table = read_teacher_outputs(reference(path), SST2)
    rows = table.find(examples("c", "a", "zzz"))
    assert rows.tolist() == [2, 0, -1]
    np.testing.assert_allclose(table.logits[0], np.log([0.2, 0.8]), rtol=1e-6)
    np.testing.assert_allclose(table.logits[1], [np.log(1e-6), 0.0], atol=1e-6)


def test_votes_become_shares_that_few_votes_make_less_certain(tmp_path):
    path = write_csv(
        tmp_path / "t.csv", sentence=["a", "b", "c"], negative=[3, 30, 1], positive=[0, 0, 1]
    )
    shares = np.exp(read_teacher_outputs(reference(path, "votes"), SST2).logits)
    np.testing.assert_allclose(shares[:, 0], [0.875, 30.5 / 31, 0.5], rtol=1e-6)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "votes", "message"),
    [
        ("votes", (0.5, 0.5), "whole numbers from 0, but not in row 2.* of kind probabilities"),
        ("votes", (-1, 3), "whole numbers from 0, but not in row 2"),
        ("votes", (0, 0), "nobody voted in row 2: leave such rows out"),
        ("probabilities", (2, 1), "above 1 in row 2.*columns that count votes are of kind votes"),
        ("scores", (2, 1), "expected probabilities, logits, votes or labels"),
    ],
)
def test_what_are_no_votes(tmp_path, kind, votes, message):
    path = write_csv(
        tmp_path / "t.csv", sentence=["a", "b"], negative=[1, votes[0]], positive=[0, votes[1]]
    )
    with pytest.raises(DataError, match=message):
        read_teacher_outputs(reference(path, kind), SST2)


def test_logits_are_taken_as_they_are_from_any_format(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"sentence": "a", "n": -3.5, "p": 41}) + "\n")
    columns = {"negative": "n", "positive": "p"}
    table = read_teacher_outputs(reference(path, "logits", columns=columns), SST2)
    assert table.logits.tolist() == [[-3.5, 41.0]]
    path = tmp_path / "t.parquet"
    import pandas as pd

    pd.DataFrame({"sentence": ["a"], "negative": [1.0], "positive": [2.0]}).to_parquet(path)
    assert read_teacher_outputs(reference(path, "logits"), SST2).logits.tolist() == [[1.0, 2.0]]


def test_a_join_by_id(tmp_path):
    path = write_csv(tmp_path / "t.csv", key=["7", "8"], negative=[0.5, 0.1], positive=[0.5, 0.9])
    table = read_teacher_outputs(reference(path, text=(), id="key"), SST2)
    part = Examples(ids_of_keys("sst2", ["8", "9"]), (["x", "y"],), np.zeros(2, np.int64))
    assert table.find(part).tolist() == [1, -1]
    table.require_some(part)
    other = part.take(np.array([1]))
    with pytest.raises(DataError, match=r"none of the 1 rows .*\(joined by their ids\).*: y\."):
        table.require_some(other)


def test_a_regressions_scores(tmp_path):
    path = write_csv(tmp_path / "t.csv", one=["a"], two=["b"], score=["3.25"])
    table = read_teacher_outputs(reference(path, "scores", ("one", "two")), STSB)
    assert table.logits.tolist() == [[3.25]]
    with pytest.raises(DataError, match="kind 'logits' does not fit a regression: expected scores"):
        read_teacher_outputs(reference(path, "logits", ("one", "two")), STSB)


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        (
            {"negative": [0.4], "positive": [0.5]},
            {},
            r"not sum to 1 in row 1 \(row 1 sums to 0.9",
        ),
        ({"negative": [-0.1], "positive": [1.1]}, {}, "below 0 or above 1 in row 1; are these log"),
        ({"negative": ["x"], "positive": [1]}, {}, "column 'negative' holds no finite number in"),
        ({"negative": ["nan"], "positive": [1]}, {}, "column 'negative' holds no finite number in"),
        ({"negatif": [0.5], "positive": [0.5]}, {}, "no column 'negative'. Did you mean 'negatif'"),
        (
            {"negative": [0.5], "positive": [0.5]},
            {"columns": {"positiv": "positive"}},
            "the task has no class 'positiv'. Did you mean 'positive'",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, columns, changes, message):
    path = write_csv(tmp_path / "t.csv", sentence=["a"], **columns)
    with pytest.raises(DataError, match=message):
        read_teacher_outputs(reference(path, **changes), SST2)


def test_a_text_may_repeat_only_with_the_same_numbers(tmp_path):
    path = write_csv(tmp_path / "t.csv", sentence=["a", "a"], negative=[0, 0], positive=[1, 1])
    assert read_teacher_outputs(reference(path), SST2).find(examples("a")).tolist() == [0]
    path = write_csv(tmp_path / "u.csv", sentence=["a", "a"], negative=[0, 1], positive=[1, 0])
    with pytest.raises(DataError, match="row 2 repeat the text of an earlier row"):
        read_teacher_outputs(reference(path), SST2)


def test_a_changed_file_is_refused(tmp_path):
    path = write_csv(tmp_path / "t.csv", sentence=["a"], negative=[0], positive=[1])
    ref = reference(path)
    path.write_text(path.read_text() + "b,1,0\n")
    with pytest.raises(DataError, match="changed since the study was planned"):
        read_teacher_outputs(ref, SST2)


def test_names_of_classes_as_a_language_model_writes_them(tmp_path):
    answers = ["positive", "Negative", " POSITIVE. ", "'negative'", "neutral", "I cannot say", "",
               "neutral"]  # fmt: skip
    path = write_csv(tmp_path / "t.csv", sentence=list("abcdefgh"), label=answers)
    table = read_teacher_outputs(reference(path, "labels", label="label"), SST2)
    rows = table.find(examples(*"abcdefgh"))
    assert (rows >= 0).tolist() == [True] * 4 + [False] * 4
    assert table.logits[rows[:4]].argmax(axis=1).tolist() == [1, 0, 1, 0]
    np.testing.assert_allclose(np.exp(table.logits[rows[:4]]).max(axis=1), 0.9, rtol=1e-6)
    assert table.read == 8
    assert table.left_out == {"empty": 1, "that name no class": 3}
    assert table.no_class == {"neutral": 2, "I cannot say": 1}
    (remark,) = table.remarks()
    assert "4 of 8 answers are left out (1 empty, 3 that name no class: 'neutral' (2)," in remark


def test_a_confidence_is_the_probability_of_its_class(tmp_path):
    hate = TASKS["hate"]
    path = write_csv(
        tmp_path / "t.csv",
        sentence=list("abcd"),
        answer=["hate", "neither", "offensive", "hate"],
        sure=[0.8, 0.5, "", 0.1],
    )
    ref = reference(path, "labels", label="answer", confidence="sure")
    shares = np.exp(read_teacher_outputs(ref, hate).logits)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(shares[0], [0.8, 0.1, 0.1], rtol=1e-5)
    np.testing.assert_allclose(shares[1], [0.25, 0.25, 0.5], rtol=1e-5)
    assert shares[2, 1] == pytest.approx((0.8 + 0.5 + 0.1) / 3)  # as the others on average
    assert shares[3].argmax() == 0  # however unsure, what was answered


def test_answers_that_differ_by_more_than_a_glance_are_kept_apart(tmp_path):
    task = replace(SST2, label_names=("Up", "up", "down"))
    path = write_csv(tmp_path / "t.csv", sentence=list("abc"), label=["up", "UP", "down!"])
    table = read_teacher_outputs(reference(path, "labels", label="label"), task)
    rows = table.find(examples(*"abc"))
    assert table.logits[rows[[0, 2]]].argmax(axis=1).tolist() == [1, 2]
    assert rows[1] == -1  # Up or up?


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        (
            {"label": ["maybe"]},
            {},
            "no answer in column 'label' is a class .* 'maybe'; the cl",
        ),
        ({"label": [""]}, {}, "It holds empty cells"),
        ({"labels": ["positive"]}, {}, "no column 'label'. Did you mean 'labels'"),
        (
            {"label": ["positive"], "sure": [85]},
            {"confidence": "sure"},
            "'sure' is not between 0 and 1 in row 1. Per cents are divided by 100",
        ),
        ({"label": ["positive"], "sure": ["?"]}, {"confidence": "sure"}, "'sure' holds no number"),
        ({"label": ["positive"]}, {"confidence": "label"}, "columns used twice: label"),
    ],
)
def test_what_is_wrong_with_names_of_classes(tmp_path, columns, changes, message):
    path = write_csv(tmp_path / "t.csv", sentence=["a"], **columns)
    with pytest.raises(DataError, match=message):
        read_teacher_outputs(reference(path, "labels", label="label", **changes), SST2)


def test_a_text_that_is_answered_twice_has_one_answer(tmp_path):
    columns = {"sentence": ["a", "a", "a"], "label": ["positive", "positive", "?"]}
    path = write_csv(tmp_path / "t.csv", **columns)
    ref = reference(path, "labels", label="label")
    assert read_teacher_outputs(ref, SST2).find(examples("a")).tolist() == [0]
    columns["label"][2] = "negative"
    path = write_csv(tmp_path / "u.csv", **columns)
    with pytest.raises(DataError, match="row 3 repeat the text of an earlier row with another ans"):
        read_teacher_outputs(reference(path, "labels", label="label"), SST2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "labels", "columns": {"positive": "p"}}, "kind labels has one: set label"),
        ({"kind": "votes", "label": "answer"}, "label is a column of kind labels, but kind is"),
        ({"kind": "logits", "confidence": "c"}, "confidence is a column of kind labels"),
        ({"kind": "logits", "label_separator": "|"}, "label_separator is of kind labels, but"),
    ],
)
def test_columns_of_another_kind_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TeacherOutputs(file="t.csv", **values)


SEVERAL = Task("topics", MULTILABEL, ("sentence",), ("food", "price"), "mean_average_precision")


def test_of_several_labels_each_has_a_probability_of_its_own(tmp_path):
    path = write_csv(tmp_path / "t.csv", sentence=["a", "b"], price=[0.9, 0.0], food=[0.8, 1.0])
    table = read_teacher_outputs(reference(path), SEVERAL)
    np.testing.assert_allclose(1 / (1 + np.exp(-table.logits[0])), [0.8, 0.9], rtol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-table.logits[1])), [1 - 1e-6, 1e-6], rtol=0.1)
    logits = read_teacher_outputs(reference(path, "logits"), SEVERAL).logits
    np.testing.assert_allclose(logits[0], [0.8, 0.9])


def test_a_file_that_says_one_class_a_row_does_not_teach_several(tmp_path):
    path = write_csv(tmp_path / "t.csv", sentence=["a"], price=[1.2], food=[-3])
    with pytest.raises(DataError, match=r"between 0 and 1, but not in row 1.*kind logits"):
        read_teacher_outputs(reference(path), SEVERAL)
    with pytest.raises(DataError, match="'votes' does not fit a multilabel: expected prob"):
        read_teacher_outputs(reference(path, "votes"), SEVERAL)


SETS = [["food"], ["price", "food"], [], ["Price."]]


@pytest.mark.parametrize("separator", [None, "|"])
def test_several_labels_are_named_by_a_list_or_with_a_sign_between(tmp_path, separator):
    cells = ["[]" if not row else (separator or "").join(row) for row in SETS]
    if separator is None:
        cells = [json.dumps(row) for row in SETS]
    path = write_csv(tmp_path / "t.csv", sentence=list("abcd"), tags=cells)
    ref = reference(path, "labels", label="tags", label_separator=separator)
    table = read_teacher_outputs(ref, SEVERAL)
    shares = 1 / (1 + np.exp(-table.logits))
    np.testing.assert_allclose(shares, [[0.9, 0.1], [0.9, 0.9], [0.1, 0.1], [0.1, 0.9]], rtol=1e-5)
    assert table.remarks() == []


def test_labels_that_the_task_has_not_are_counted_and_named(tmp_path):
    cells = ["food|servce", "servce", "", "none", "price|", "food|servce|staff"]
    path = write_csv(tmp_path / "t.csv", sentence=list("abcdef"), tags=cells)
    ref = reference(path, "labels", label="tags", label_separator="|")
    table = read_teacher_outputs(ref, SEVERAL)
    known = table.find(examples(*"abcdef")) >= 0
    assert known.tolist() == [True, False, False, False, True, True]
    assert (table.logits[[0, 5]] > 0).tolist() == [[True, False]] * 2
    assert table.left_out == {"empty, where [] says none": 1, "that name no label of the task": 2}
    assert table.no_class == {"servce": 3, "none": 1, "staff": 1}
    assert table.partly == 2
    left, partly, names = table.remarks()
    assert left.endswith("left out (2 that name no label of the task, 1 empty, where [] says none)")
    assert "2 of 6 answers are learnt in part: some of their names are no labels" in partly
    assert names.endswith("no labels of the task: 'servce' (3), 'none' (1), 'staff' (1)")


def test_a_sets_confidence_is_that_of_each_label_said_or_not(tmp_path):
    path = write_csv(tmp_path / "t.csv", sentence=list("ab"), tags=["food", "[]"], sure=[0.8, 0.2])
    ref = reference(path, "labels", label="tags", label_separator="|", confidence="sure")
    shares = 1 / (1 + np.exp(-read_teacher_outputs(ref, SEVERAL).logits))
    np.testing.assert_allclose(shares[0], [0.8, 0.2], rtol=1e-5)
    assert (shares[1] < 0.5).all()  # however unsure, what was answered


def test_joined_names_without_a_separator_are_no_sets(tmp_path):
    path = write_csv(tmp_path / "t.csv", sentence=["a", "b"], tags=["food|price", "food"])
    with pytest.raises(
        DataError, match=r"no answer in column 'tags' is a set of labels .*food\|pr"
    ):
        read_teacher_outputs(reference(path, "labels", label="tags"), SEVERAL)
    with pytest.raises(DataError, match="set `label_separator`"):
        read_teacher_outputs(reference(path, "labels", label="tags"), SEVERAL)
    ref = reference(path, "labels", label="tags", label_separator="|")
    with pytest.raises(DataError, match="label_separator is given, but in a classification"):
        read_teacher_outputs(ref, SST2)


def test_a_text_with_two_sets_of_labels_is_refused(tmp_path):
    path = write_csv(tmp_path / "t.csv", sentence=["a", "a"], tags=["food", "price"])
    ref = reference(path, "labels", label="tags", label_separator="|")
    with pytest.raises(DataError, match="row 2 repeat the text of an earlier row with another ans"):
        read_teacher_outputs(ref, SEVERAL)
