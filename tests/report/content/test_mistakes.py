"""What the report says of mistakes, labels and slices, and the page that has all of them."""

from __future__ import annotations

import pandas as pd
import pytest

from kdlora.evidence.mistakes import Mistake, RowOfInterest, SuspectedLabel, TaskMistakes
from kdlora.evidence.slices import SliceScore
from kdlora.report.build import write_report
from kdlora.report.content import mistakes as content
from kdlora.report.content.parts import ReportInputs
from tests.harness.studies import make_frame


def row(i: int, *, split: str = "report", text: str | None = "=1+1 is fun") -> RowOfInterest:
    return RowOfInterest(split, f"id{i}", i, text)


def found(n: int = 40, *, text: str | None = "=1+1 is fun", slices=()) -> TaskMistakes:
    return TaskMistakes(
        "movie-reviews", "student/kd-lora", "run", "teacher/fft", ("neg", "pos"), False, 200, n,
        judge_right=0.762,
        folds_right=0.68,
        mistakes=tuple(
            Mistake(row(i, text=text), 0, 1, 0.99 - i / 100, 0, 0.7, i < 12) for i in range(n)
        ),
        checked={"report": 200, "train": 900},
        suspects=(SuspectedLabel(row(7, split="train", text=text), 0, 1, 0.1, 0.9),),
        slices=tuple(slices),
    )  # fmt: skip


WORSE = SliceScore("channel", "mail", False, 50, 0.6, 0.46, 0.72, 0.85, 0.0001, 0.002, "worse")
ALIKE = SliceScore("channel", "web", False, 150, 0.84, 0.78, 0.9, 0.8, 0.5, 1.0, "not told apart")


def test_a_reader_in_a_hurry_sees_how_many_mistakes_look_like_wrong_labels():
    text = content.told(found())
    assert text.startswith("The KD-LoRA student answers 40 of 200 report rows wrong.")
    assert (
        "12 of the 30 most certain mistakes look like wrong labels to the teacher, who is right on "
        "76.2 % of them." in text
    )
    assert "1 of 900 training rows has a label that other rows speak against, by a linear" in text
    assert "right on 68.0 % of them." in text


def test_only_slices_that_the_test_told_apart_are_named():
    told = content.told_slices(found(slices=[WORSE, ALIKE]))
    assert "channel is mail (60.0 % against 85.0 %, n = 50)" in told
    assert "web" not in told
    assert content.told_slices(found(slices=[ALIKE])).startswith("No slice is told apart")


def test_the_report_shows_ten_and_the_page_and_the_csv_have_all(tmp_path):
    inputs = ReportInputs("t", mistakes=lambda: [found(slices=[WORSE, ALIKE])])
    files = write_report(make_frame(), tmp_path, inputs)
    page, csv = files.mistakes.read_text(), tmp_path / "tables" / "mistakes.csv"
    assert files.html.read_text().count(">=1+1 is fun<") == 11  # and one label
    assert "mistakes.html" in files.html.read_text()
    assert page.count(">=1+1 is fun<") == 41
    table = pd.read_csv(csv)
    assert len(table) == 40
    assert table["text"][0] == "'=1+1 is fun"  # no spreadsheet computes it
    write_report(make_frame(), tmp_path, ReportInputs("t"))
    assert not files.mistakes.exists()
    assert not csv.exists()


def test_without_texts_there_is_no_column_of_them():
    table = content.mistakes([found(text=None)])
    assert "text" not in [column.key for column in table.columns]
    assert "text" in [column.key for column in content.mistakes([found()]).columns]


@pytest.mark.parametrize("make", [content.mistakes, content.label_errors, content.slices])
def test_of_no_student_there_is_no_table(make):
    assert make([]) is None
