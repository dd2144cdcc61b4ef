"""Which numbers of the report's tables are bold, and which are marked as not told apart."""

from __future__ import annotations

import pandas as pd

from kdlora.evidence.study import gather_report
from kdlora.report.content.answer import student, summary
from kdlora.report.content.cells import BEST_NOTE, TIE_NOTE
from kdlora.report.content.quality import quality
from tests.harness.studies import make_frame, put


def described(frame: pd.DataFrame):
    return gather_report(frame).facts


def column(table, key):
    place = [c.key for c in table.columns].index(key)
    return {row[table.heads - 1].value: row[place] for row in table.rows}


def test_tables_mark_the_best_and_say_what_that_means():
    frame = make_frame(seeds=(1, 2, 3), baselines=False)
    for arm, level in (("teacher/fft", 0.9), ("teacher/lora", 0.899), ("student/fft", 0.5),
                       ("student/lora", 0.49), ("student/kd-lora", 0.48)):  # fmt: skip
        for seed in (1, 2, 3):
            odd = 0.004 * (seed - 2) * (1 if arm.endswith("fft") else -1)
            frame = put(frame, {"arm": arm, "seed": seed}, score=level + odd)
    facts = described(frame)
    for table, key in ((summary(facts), "score"), (quality(facts), "movie-reviews")):
        cells = column(table, key)
        assert cells["teacher/fft"].standing == "best"
        assert cells["teacher/lora"].standing == "tie"
        assert cells["teacher/lora"].marks.endswith("≈")
        assert cells["student/fft"].standing == ""
        assert TIE_NOTE in table.notes


def test_of_costs_the_encoders_are_compared_and_nothing_is_said_of_chance():
    table = summary(described(make_frame(seeds=(1,))))
    sizes = column(table, "size_mb")
    assert sizes["student/fft"].standing == sizes["student/lora"].standing == "best"
    assert sizes["baseline/tfidf"].standing == ""
    assert BEST_NOTE in table.notes
    assert not [cell for row in table.rows for cell in row if cell.standing == "tie"]


def test_a_student_is_given_no_average_over_pairs_in_which_it_is_not():
    """The large pair's student ranks first; what all models share are the small pair's cells."""
    small = make_frame(("rte",), arms=("teacher/fft", "student/fft", "student/lora"), pair="small")
    large = make_frame(("rte",), arms=("teacher/fft", "student/fft"), pair="large")
    for frame, score in ((small, 0.6), (large, 0.9)):
        students = frame["role"] == "student"
        frame["run_id"] = frame["pair"] + "-" + frame["run_id"]
        frame.loc[students, ["score", "selection_score"]] = score
    for frame, is_told in ((pd.concat([small, large], ignore_index=True), False), (small, True)):
        stats = gather_report(frame)
        assert (student(stats.facts, stats) is not None) is is_told
