"""Which numbers of the report's tables are bold, and which are marked as not told apart."""

from __future__ import annotations

import pandas as pd

from kdlora.evidence.study import gather_report
from kdlora.report.content.answer import summary
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
