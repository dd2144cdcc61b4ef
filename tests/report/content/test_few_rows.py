"""A report split of few rows is said to be one, and what all rows say out of fold."""

from __future__ import annotations

from kdlora.report.content.few_rows import few_rows, told_few_rows
from tests.harness.studies import make_frame, put


def test_few_report_rows_are_told_and_many_are_not():
    frame = make_frame(seeds=(42,))
    assert told_few_rows(frame) == []
    (told,) = told_few_rows(frame.assign(n_report=12))
    assert told.startswith("All scores are of 12 report rows, where one answer is 8 points")
    (finding,) = few_rows(frame.assign(n_report=12))
    assert "no two models are told apart" in finding.text


def test_cross_validation_is_named_with_its_rows_and_interval():
    frame = make_frame(seeds=(42,)).assign(n_report=12)
    folded = put(frame, {"arm": "student/fft"}, cv_folds=5, cv_rows=60, cv_right=43)
    _, told = told_few_rows(folded)
    assert told == (
        "By 5-fold cross-validation of 60 rows the fully fine-tuned student is right on 71.7 % "
        "(95 % interval 59.2 to 81.5 %)."
    )


def test_of_several_tasks_each_is_named():
    frame = put(make_frame(("rte", "mrpc"), seeds=(42,)), {"task": "rte"}, n_report=4)
    (told,) = told_few_rows(frame)
    assert told.startswith("rte: All scores are of 4 report rows, where one answer is 25 points")
