"""Means, shared blocks and shares against sums done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdlora.evidence.outcomes import (
    Spread,
    all_outcomes,
    averaged_tasks,
    in_blocks,
    means_by_group,
    outcomes,
    shared_blocks,
    spreads,
)
from kdlora.records.tidy import tidy
from tests.harness.studies import blank, make_frame, put

PAIR = "minilm-l6--minilm-l3"
SCORES = {  # task -> arm -> seed -> score
    "rte": {
        "teacher/fft": (0.70, 0.74),
        "student/fft": (0.60, 0.62),
        "student/kd-fft": (0.66, 0.6),
    },
    "sst2": {
        "teacher/fft": (0.92, 0.90),
        "student/fft": (0.86, 0.9),
        "student/kd-fft": (0.88, 0.9),
    },
}


def hand_made():
    frame = make_frame(tuple(SCORES), seeds=(1, 2), arms=tuple(SCORES["rte"]))
    for task, arms in SCORES.items():
        for arm, scores in arms.items():
            for seed, score in zip((1, 2), scores, strict=True):
                where = {"task": task, "arm": arm, "seed": seed}
                frame = put(frame, where, score=score, selection_score=score + 0.01)
        frame = put(frame, {"task": task, "arm": "baseline/majority"}, score=0.5)
    return frame


def outcome_of(frame, arm):
    data = tidy(frame)
    return {o.arm: o for o in all_outcomes(data, in_blocks(data))[PAIR]}.get(arm)


def test_averages_are_over_seeds_and_then_over_tasks():
    frame = hand_made()
    student = outcome_of(frame, "student/fft")
    assert student.score.mean == pytest.approx((0.61 + 0.88) / 2)
    assert student.selection == pytest.approx((0.62 + 0.89) / 2)
    # one average per seed, over both tasks
    assert (student.score.low, student.score.high) == pytest.approx((0.73, 0.76))
    assert student.score.n == 4
    teacher = (0.72 + 0.91) / 2
    assert student.retained == pytest.approx(0.745 / teacher)
    assert student.above_floor == pytest.approx((0.745 - 0.5) / (teacher - 0.5))


def test_a_block_that_one_arm_lacks_is_taken_from_all():
    frame = blank(hand_made(), {"task": "rte", "arm": "student/kd-fft", "seed": 2}, "failed", "x")
    data = tidy(frame)
    blocks = shared_blocks(in_blocks(data), PAIR, ["rte", "sst2"])
    assert blocks == [("rte", 1), ("sst2", 1), ("sst2", 2)]
    student = outcome_of(frame, "student/fft")
    assert student.score.mean == pytest.approx((0.60 + 0.88) / 2)  # rte from seed 1 alone
    assert student.retained == pytest.approx(student.score.mean / ((0.70 + 0.91) / 2))
    assert math.isnan(student.score.low)  # seeds cover different tasks: no range over them
    # the spread of a task alone still has every run of it
    assert spreads(data)[PAIR, "rte", "student/fft"].n == 2


def test_an_arm_without_any_score_does_not_empty_the_blocks():
    frame = hand_made()
    for task in SCORES:
        for seed in (1, 2):
            frame = blank(frame, {"task": task, "arm": "student/kd-fft", "seed": seed}, "missing")
    data = tidy(frame)
    assert len(shared_blocks(in_blocks(data), PAIR, list(SCORES))) == 4


def test_seedless_arms_stand_beside_every_seed_but_count_once():
    frame = hand_made()
    cells = in_blocks(tidy(frame))
    majority = cells[cells["arm"] == "baseline/majority"]
    assert sorted(majority["seed"]) == [1, 1, 2, 2]
    assert outcome_of(frame, "baseline/majority").score.n == 2  # one run a task
    alone = in_blocks(tidy(frame[frame["role"] == "baseline"]))
    assert set(alone["seed"]) == {0}


def test_a_given_teacher_shares_the_blocks_of_its_students():
    frame = make_frame(arms=("teacher/given", "student/kd-lora"), seeds=(1, 2))
    frame = put(frame, {"arm": "teacher/given"}, seed=0, run_id="given", score=0.9)
    frame = put(frame, {"arm": "student/kd-lora"}, teacher_run_id="given")
    data = tidy(frame)
    cells = in_blocks(data)
    assert shared_blocks(cells, PAIR, ["movie-reviews"]) == [
        ("movie-reviews", 1), ("movie-reviews", 2)
    ]  # fmt: skip
    assert outcome_of(frame, "teacher/given").score.n == 1


def test_flagged_runs_are_counted_and_named():
    frame = put(hand_made(), {"task": "rte", "arm": "student/fft", "seed": 2}, flags=("nan",))
    student = outcome_of(frame, "student/fft")
    assert student.score.mean == pytest.approx(0.745)  # still in the mean
    assert len(student.score.flagged) == 1
    assert "s2" in student.score.flagged[0]


def test_speed_ups_are_averaged_as_ratios():
    frame = hand_made()
    for task, speed in (("rte", 1.0), ("sst2", 4.0)):
        frame = put(frame, {"task": task, "arm": "student/fft"}, speedup_latency=speed)
    assert outcome_of(frame, "student/fft").costs["speedup_latency"] == pytest.approx(2.0)


def test_costs_are_means_over_tasks():
    frame = put(hand_made(), {"task": "rte", "arm": "student/fft"}, train_s=10.0)
    frame = put(frame, {"task": "sst2", "arm": "student/fft"}, train_s=30.0)
    assert outcome_of(frame, "student/fft").costs["train_s"] == pytest.approx(20.0)


def test_no_share_of_a_score_that_is_no_share_of_anything():
    lower = make_frame(("toxicity",))
    assert outcome_of(lower, "student/fft").retained is None
    negative = make_frame(("cola",))
    negative = put(negative, {"arm": "teacher/fft"}, score=-0.1)
    assert outcome_of(negative, "student/fft").retained is None
    worse = put(make_frame(("rte",)), {"arm": "teacher/fft"}, score=0.4)  # below the majority
    assert outcome_of(worse, "student/fft").retained is None
    assert outcome_of(worse, "student/fft").above_floor is None


def test_of_a_teacher_at_the_majoritys_level_no_share_is_told():
    floor = outcome_of(make_frame(("rte",)), "baseline/majority").score.mean
    level = put(make_frame(("rte",)), {"arm": "teacher/fft"}, score=floor + 0.019)
    assert outcome_of(level, "student/fft").retained is None
    clear = put(make_frame(("rte",)), {"arm": "teacher/fft"}, score=floor + 0.021)
    assert outcome_of(clear, "student/fft").retained is not None
    alone = put(make_frame(("cola",), baselines=False), {"arm": "teacher/fft"}, score=0.001)
    assert outcome_of(alone, "student/fft").retained is None  # it would keep many thousand per cent


def test_only_points_are_averaged_with_points():
    frame = tidy(make_frame(("rte", "toxicity", "cola")))
    assert averaged_tasks(frame) == ["rte", "cola"]
    assert averaged_tasks(tidy(make_frame(("toxicity",)))) == ["toxicity"]


def test_a_baseline_undefined_on_a_task_has_no_average():
    frame = make_frame(("rte", "stsb"))  # majority has no correlation
    assert outcome_of(frame, "baseline/majority") is None
    assert outcome_of(frame, "student/fft").above_floor is None
    assert outcome_of(frame, "baseline/tfidf") is not None


def test_unscored_cells_are_in_no_mean():
    frame = put(hand_made(), {"task": "rte", "arm": "student/fft", "seed": 2}, score=np.nan)
    assert spreads(tidy(frame))[PAIR, "rte", "student/fft"].mean == pytest.approx(0.60)


def test_outcomes_of_one_task_use_that_task_alone():
    data = tidy(hand_made())
    found = outcomes(data, in_blocks(data), PAIR, [("sst2", 1), ("sst2", 2)])
    assert {o.arm: o.score.mean for o in found}["student/fft"] == pytest.approx(0.88)


def test_runs_that_were_interrupted_are_named_beside_their_arm():
    frame = hand_made()
    frame["resumed"] = 0
    frame.loc[(frame["task"] == "rte") & (frame["arm"] == "student/fft"), "resumed"] = 2
    broken = outcome_of(frame, "student/fft").resumed
    assert broken
    assert set(broken) == set(frame.loc[frame["resumed"] > 0, "run_id"])
    assert outcome_of(frame, "teacher/fft").resumed == ()
    assert outcome_of(hand_made(), "student/fft").resumed == ()


def test_means_of_groups_weigh_arms_alike_and_say_how_many_they_are():
    def spread(mean):
        return Spread(mean, mean, mean, 3)

    found = {("p", "rte", "a"): spread(0.6), ("p", "rte", "b"): spread(0.8),
             ("p", "cola", "a"): spread(0.5), ("q", "rte", "a"): spread(0.1),
             ("p", "rte", "c"): spread(0.9)}  # fmt: skip
    assert means_by_group(found, "p", {"a": "both", "b": "both"}) == {
        "both": {"rte": (pytest.approx(0.7), 2), "cola": (0.5, 1)}
    }
