"""The surest mistakes of a study's student, beside its teacher's answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from kdlora.evidence import mistakes as module
from kdlora.evidence.mistakes import Answers, gather_mistakes
from kdlora.records.predictions import SplitOutputs
from kdlora.records.rows import make_rows
from tests.harness.studies import make_frame

N = 120
IDS = np.array([f"id{i}" for i in range(N)], object)


@pytest.fixture(autouse=True)
def _suspects(monkeypatch):
    """Rows 0 and 3 are suspected wherever labels are looked at: what finds them is tested alone."""
    monkeypatch.setattr(module, "suspected_labels", lambda labels, p: np.array([3, 0]))


def outputs(labels: np.ndarray, answers: np.ndarray, sure: np.ndarray) -> SplitOutputs:
    """Two logits a row whose softmax is `sure` at the answer."""
    logits = np.zeros((len(labels), 2))
    logits[np.arange(len(labels)), answers] = np.log(sure / (1 - sure))
    return SplitOutputs(IDS[: len(labels)], labels, logits)


@pytest.fixture
def study():
    """A frame whose first student is wrong in rows 0 to 5, row 0 being the surest."""
    frame = make_frame(seeds=(42,))
    labels = np.tile([0, 1], N // 2)
    answers = labels.copy()
    answers[:6] = 1 - labels[:6]
    sure = np.full(N, 0.7)
    sure[:6] = [0.95, 0.9, 0.85, 0.8, 0.75, 0.72]
    student, teacher = outputs(labels, answers, sure), outputs(labels, labels, np.full(N, 0.6))
    found = {
        run: teacher if arm.startswith("teacher") else student
        for run, arm in zip(frame["run_id"], frame["arm"], strict=True)
    }
    facts = pd.DataFrame(
        {"split": "report", "example_id": IDS, "number": np.arange(1.0, N + 1), "tokens": 5.0}
    ).assign(script="Latin")
    texts = [f"text {i}" for i in range(N)]
    rows = make_rows(facts, {"text": texts}, {"side": ["l", "r"] * (N // 2)})
    return frame, Answers(found, found, {}, lambda task: rows)


def test_the_surest_wrong_answers_stand_first_with_text_label_and_teacher(study):
    frame, answers = study
    (one,) = gather_mistakes(frame, answers)
    assert one.arm.startswith("student/")
    assert one.teacher_arm == "teacher/fft"
    assert (one.n, one.wrong, len(one.mistakes)) == (N, 6, 6)
    first = one.mistakes[0]
    assert (first.row.text, first.row.number) == ("text 0", 1)
    assert (first.label, first.answer, first.teacher_answer) == (0, 1, 0)
    assert (first.confidence, first.teacher_confidence) == pytest.approx((0.95, 0.6))
    assert [m.row.number for m in one.mistakes] == [1, 2, 3, 4, 5, 6]
    assert [m.suspected for m in one.mistakes] == [True, False, False, True, False, False]
    assert one.surest_suspected == 2
    assert one.judge_right == 1.0


def test_training_rows_are_doubted_by_outputs_out_of_fold_alone(study):
    frame, answers = study
    (one,) = gather_mistakes(frame, answers)
    assert set(one.checked) == {"report", "selection"}
    baseline = frame.loc[frame["arm"] == "baseline/tfidf", "run_id"].iloc[0]
    folded = outputs(np.tile([0, 1], 20), np.tile([0, 1], 20), np.full(40, 0.7))
    (one,) = gather_mistakes(frame, replace(answers, out_of_fold={baseline: folded}))
    assert one.checked["train"] == 40
    assert one.folds_right == 1.0
    assert [s.row.example_id for s in one.suspects if s.row.split == "train"] == ["id3", "id0"]
    likely = next(s for s in one.suspects if s.row.split == "train")
    assert (likely.label, likely.likely) == (1, 0)


def test_class_length_script_and_own_columns_are_slices(study):
    frame, answers = study
    (one,) = gather_mistakes(frame, answers)
    assert {s.column for s in one.slices} == {"class", "side"}  # one length and one script
    assert one.tested == 4


def test_without_rows_there_are_ids_and_without_predictions_nothing(study):
    frame, answers = study
    (one,) = gather_mistakes(frame, replace(answers, rows=lambda task: None))
    assert one.mistakes[0].row.text is None
    assert one.mistakes[0].row.example_id == "id0"
    assert gather_mistakes(frame, replace(answers, report={})) == []


def test_numbers_have_no_wrong_answers_but_slices_of_errors(study):
    frame, answers = study
    frame = make_frame(("stsb",), seeds=(42,)).assign(task_kind="regression")
    truth = np.linspace(0, 5, N)
    off = truth + np.tile([0.1, 0.9], N // 2)
    found = dict.fromkeys(frame["run_id"], SplitOutputs(IDS, truth, off[:, None]))
    (one,) = gather_mistakes(frame, replace(answers, report=found))
    assert one.is_regression
    assert not one.mistakes
    verdicts = {(s.column, s.value): s.verdict for s in one.slices}
    assert verdicts == {("side", "l"): "better", ("side", "r"): "worse"}


@pytest.fixture
def several(study):
    """Two labels a text: the student misses `a` in row 0 and says `b` wrongly in rows 0 and 1."""
    frame, answers = study
    frame = frame.assign(
        task_kind="multilabel", label_names=[("a", "b")] * len(frame), metric="macro_f1"
    )
    labels = np.stack([np.tile([1, 0], N // 2), np.tile([0, 0, 1, 1], N // 4)], axis=1)
    logits = np.where(labels == 1, 2.0, -2.0)
    logits[0] = [-3.0, 1.0]
    logits[1, 1] = 2.5
    student, teacher = (SplitOutputs(IDS, labels, x) for x in (logits, (labels * 2 - 1) * 0.4))
    found = {
        run: teacher if arm.startswith("teacher") else student
        for run, arm in zip(frame["run_id"], frame["arm"], strict=True)
    }
    return frame, replace(answers, report=found, selection=found)


def test_of_several_labels_each_is_an_answer_of_its_own(several):
    frame, answers = several
    (one,) = gather_mistakes(frame, answers)
    assert one.several
    assert (one.n, one.wrong, len(one.mistakes)) == (N, 2, 3)
    told = [
        (m.row.number, one.named(m.label, m.about), one.named(m.answer, m.about))
        for m in one.mistakes
    ]
    assert told == [(1, "a", "not a"), (2, "not b", "b"), (1, "not b", "b")]
    first = one.mistakes[0]
    assert one.named(first.teacher_answer, first.about) == "a"
    shares = 1 / (1 + np.exp(-np.array([3.0, 0.4])))
    assert (first.confidence, first.teacher_confidence) == pytest.approx(tuple(shares))
    assert [m.suspected for m in one.mistakes] == [True, False, True]  # row 0, either label


def test_suspected_labels_are_those_of_each_label_by_itself(several):
    frame, answers = several
    (one,) = gather_mistakes(frame, answers)
    report = [s for s in one.suspects if s.row.split == "report"]
    assert [(s.row.number, s.about) for s in report] == [(4, 0), (1, 0), (4, 1), (1, 1)]
    assert [one.named(s.label, s.about) for s in report] == ["not a", "a", "b", "not b"]
    assert [one.named(s.likely, s.about) for s in report] == ["a", "not a", "not b", "b"]


def test_each_of_few_labels_makes_slices(several, monkeypatch):
    frame, answers = several
    (one,) = gather_mistakes(frame, answers)
    assert {s.column for s in one.slices} == {"label a", "label b", "side"}
    found = {(s.column, s.value): s.score for s in one.slices}
    assert found["label b", "no"] == pytest.approx(1 - 2 / 60)
    assert found["label b", "yes"] == 1
    monkeypatch.setattr(module, "MOST_LABELS", 1)
    (one,) = gather_mistakes(frame, answers)
    assert {s.column for s in one.slices} == {"side"}
