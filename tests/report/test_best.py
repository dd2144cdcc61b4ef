"""Which numbers are bold, and which are marked as not told apart."""

from __future__ import annotations

import pandas as pd
from scipy import stats

from kdlora.evidence.gains import gather
from kdlora.report.content.best import NO_NOISE, NOTE, standings
from kdlora.report.content.tables import quality, summary
from tests.harness.studies import make_frame, put


def series(*values):
    return pd.Series(values, index=range(len(values)), dtype=float)


def test_the_best_and_what_a_paired_interval_does_not_tell_from_it():
    best, near, far = series(0.90, 0.80, 0.85), series(0.89, 0.81, 0.84), series(0.8, 0.7, 0.75)
    found = standings({"near": near, "best": best, "far": far}, 1)
    assert found == {"best": "best", "near": "tie"}
    low, _ = stats.ttest_1samp(best - near, 0).confidence_interval(0.95)
    assert low < 0
    low, _ = stats.ttest_1samp(best - far + series(0, 1e-6, 0), 0).confidence_interval(0.95)
    assert low > 0


def test_less_may_be_better_and_costs_are_compared_as_ratios():
    values = {"small": series(1, 10, 100), "large": series(2, 20, 200)}
    assert standings(values, -1, logs=True) == {"small": "best"}
    assert standings(values, -1) == {"small": "best", "large": "tie"}  # the differences vary a lot


def test_one_run_each_ties_with_nothing():
    assert standings({"a": series(0.9), "b": series(0.89)}, 1) == {"a": "best"}
    assert standings({"a": series(0.9), "b": series(0.9)}, 1) == {"a": "best", "b": "best"}
    assert standings({"a": series(0.9)}, 1) == {}


def column(table, key):
    place = [c.key for c in table.columns].index(key)
    return {row[table.heads - 1].value: row[place] for row in table.rows}


def test_tables_mark_the_best_and_say_what_that_means():
    frame = make_frame(seeds=(1, 2, 3))
    for seed in (1, 2, 3):
        for arm, score in (("student/lora", 0.9), ("student/fft", 0.899)):
            odd = 0.004 * (seed - 2) * (1 if arm.endswith("fft") else -1)
            frame = put(frame, {"arm": arm, "seed": seed}, score=score + odd)
    facts = gather(frame)
    for table, key in ((summary(facts), "score"), (quality(facts), "movie-reviews")):
        cells = column(table, key)
        assert cells["student/lora"].standing == "best"
        assert cells["student/fft"].standing == "tie"
        assert cells["student/fft"].marks.endswith("≈")
        assert cells["teacher/fft"].standing == ""
        assert NOTE in table.notes
    sizes = column(summary(facts), "size_mb")
    assert sizes["student/fft"].standing == sizes["student/lora"].standing == "best"
    assert sizes["baseline/tfidf"].standing == ""  # of costs the encoders are compared


def test_without_noise_the_note_says_so():
    table = summary(gather(make_frame(seeds=(1,))))
    assert NO_NOISE in table.notes
    score = column(table, "score")
    assert [cell.standing for cell in score.values()].count("best") == 1
