"""A student that a baseline beats is named as such, whatever the metric's direction."""

from __future__ import annotations

import pytest

from kdlora.evidence.students import better_baseline, rank_students
from tests.harness.studies import make_frame, put


def student_of(frame, arm: str = "student/kd-lora", seed: int = 42) -> str:
    rows = frame[(frame["arm"] == arm) & (frame["seed"] == seed)]
    return str(rows["run_id"].iloc[0])


def test_a_student_above_all_baselines_has_none():
    frame = make_frame()
    assert better_baseline(frame, student_of(frame)) is None


def test_a_student_far_below_a_linear_model_is_told_so():
    frame = put(make_frame(), {"arm": "student/kd-lora", "seed": 42}, score=0.021)
    frame = put(frame, {"arm": "baseline/tfidf"}, score=1.0)
    found = better_baseline(frame, student_of(frame))
    assert (found.arm, found.score, found.student_score) == ("baseline/tfidf", 1.0, 0.021)
    level = put(frame, {"arm": "student/kd-lora", "seed": 42}, score=1.0)
    assert better_baseline(level, student_of(level)).is_level  # it costs more for the same
    above = put(level, {"arm": "baseline/tfidf"}, score=0.9996)  # shown as 100.0, too
    assert better_baseline(above, student_of(above)).is_level


def test_where_less_is_better_the_baseline_is_better_below():
    frame = make_frame(("toxicity",))
    row = student_of(frame)
    worst = put(frame, {"arm": "baseline/tfidf"}, score=9.0)
    worst = put(worst, {"arm": "baseline/majority"}, score=9.0)
    assert better_baseline(worst, row) is None
    best = put(frame, {"arm": "baseline/tfidf"}, score=0.001)
    assert better_baseline(best, row).arm == "baseline/tfidf"


def test_a_first_row_without_a_direction_turns_nothing_round():
    frame = make_frame(("toxicity",))
    frame["direction"] = frame["direction"].astype(object)
    students = frame.index[frame["role"] == "student"]
    frame.loc[[frame.index[0], students[0]], "direction"] = None
    whole = rank_students(make_frame(("toxicity",)), "toxicity")
    assert rank_students(frame, "toxicity") == whole
    assert whole.direction == -1
    worst = put(frame, {"role": "baseline"}, score=9.0)
    assert better_baseline(worst, str(frame.at[students[0], "run_id"])) is None


@pytest.mark.parametrize("without", ["baselines", "score", "run"])
def test_what_cannot_be_compared_is_not(without):
    frame = make_frame(baselines=without != "baselines")
    row = student_of(frame)
    if without == "score":
        frame = put(frame, {"arm": "student/kd-lora"}, score=None)
    assert better_baseline(frame, "nobody" if without == "run" else row) is None
