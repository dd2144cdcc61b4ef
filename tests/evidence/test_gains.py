"""Paired differences against sums done by hand."""

from __future__ import annotations

import itertools

import pytest

from kdlora.evidence import gains as g
from kdlora.evidence.questions import DISTILLATION, questions
from kdlora.vocabulary.arm import Arm, uncontrolled
from tests.harness.studies import blank, make_frame, put, with_prefix

PAIR = "minilm-l6--minilm-l3"


def gain_of(frame, effect, task="movie-reviews"):
    (found,) = (
        x for x in g.describe(frame).gains if x.comparison.effect == effect and x.task == task
    )
    return found


def set_scores(frame, arm, scores, task="movie-reviews"):
    for seed, score in scores.items():
        frame = put(frame, {"task": task, "arm": arm, "seed": seed}, score=score)
    return frame


def test_each_comparison_differs_in_one_thing():
    arms = ["teacher/fft", "teacher/lora", "student/fft", "student/lora", "student/kd-lora"]
    found = [(c.effect, c.arm, c.base) for c in g.comparisons(arms, "teacher/fft")]
    assert found == [
        (g.DISTILLATION, "student/kd-lora", "student/lora"),
        (g.SMALLER, "student/fft", "teacher/fft"),
        (g.SMALLER, "student/lora", "teacher/lora"),
        (g.ADAPTER, "teacher/lora", "teacher/fft"),
        (g.ADAPTER, "student/lora", "student/fft"),
        (g.WHOLE, "student/kd-lora", "teacher/fft"),
    ]


POOL = ("student/fft", "student/lora", "student/lora[equal-steps]", "student/lora[a]",
        "student/kd-fft", "student/kd-lora", "student/kd-lora[a]", "teacher/fft")  # fmt: skip


@pytest.mark.parametrize("n", range(1, len(POOL) + 1))
def test_a_gain_of_distillation_is_shown_or_its_control_is_said_to_be_missing(n):
    for arms in itertools.combinations(POOL, n):
        alone = set(uncontrolled(arms))
        compared = {c.arm for c in g.comparisons(arms, "teacher/fft") if c.effect == g.DISTILLATION}
        asked = {
            a for question, pairs in questions(arms, "teacher/fft").items()
            if question.startswith(DISTILLATION) for a, _ in pairs
        }  # fmt: skip
        assert compared == asked
        assert not alone & compared
        unsaid = {a for a in arms if Arm.read(a).is_distilled} - alone - compared
        assert all(Arm.read(a).label for a in unsaid)  # the control of what it varies serves it


def test_without_the_control_distillation_is_not_claimed():
    found = g.comparisons(["teacher/fft", "student/kd-lora"], "teacher/fft")
    assert [c.effect for c in found] == [g.WHOLE]


def test_a_given_teacher_is_no_larger_encoder_trained_alike():
    """It may be a file of answers, or trained otherwise: what the smaller encoder costs is open."""
    found = g.comparisons(["teacher/given", "student/fft", "student/kd-lora"], "teacher/given")
    assert g.SMALLER not in {c.effect for c in found}
    assert not [c for c in found if c.effect == g.ADAPTER and c.arm == "teacher/given"]
    trained = g.comparisons(["teacher/fft", "student/fft", "student/kd-lora"], "teacher/fft")
    assert g.PairedArms(g.SMALLER, "student/fft", "teacher/fft") in trained


def test_distillation_is_paired_by_seed():
    frame = make_frame(seeds=(1, 2, 3))
    frame = set_scores(frame, "student/lora", {1: 0.70, 2: 0.80, 3: 0.75})
    frame = set_scores(frame, "student/kd-lora", {1: 0.72, 2: 0.79, 3: 0.80})
    gain = gain_of(frame, g.DISTILLATION)
    assert gain.seeds == (1, 2, 3)
    assert gain.values == pytest.approx((0.02, -0.01, 0.05))
    assert gain.mean == pytest.approx(0.02)
    assert gain.above_zero == 2


def test_a_seed_that_one_half_lacks_is_left_out():
    frame = make_frame(seeds=(1, 2))
    frame = blank(frame, {"arm": "student/lora", "seed": 2}, "failed", "out of memory")
    assert gain_of(frame, g.DISTILLATION).seeds == (1,)


def test_better_is_above_zero_where_lower_is_better():
    frame = make_frame(("toxicity",), seeds=(1,))
    frame = set_scores(frame, "student/lora", {1: 0.30}, "toxicity")
    frame = set_scores(frame, "student/kd-lora", {1: 0.25}, "toxicity")
    assert gain_of(frame, g.DISTILLATION, "toxicity").mean == pytest.approx(0.05)


def test_the_average_is_the_mean_of_task_means():
    frame = make_frame(("rte", "sst2"), seeds=(1, 2))
    frame = set_scores(frame, "student/lora", {1: 0.6, 2: 0.6}, "rte")
    frame = set_scores(frame, "student/kd-lora", {1: 0.62, 2: 0.64}, "rte")
    frame = set_scores(frame, "student/lora", {1: 0.9}, "sst2")
    frame = set_scores(frame, "student/kd-lora", {1: 0.89}, "sst2")
    frame = blank(frame, {"task": "sst2", "arm": "student/lora", "seed": 2}, "missing")
    gain = gain_of(frame, g.DISTILLATION, None)
    assert gain.mean == pytest.approx((0.03 - 0.01) / 2)
    assert (len(gain.values), gain.above_zero, gain.tasks) == (3, 2, ("rte", "sst2"))


def test_other_units_are_not_averaged_with_points():
    frame = make_frame(("rte", "toxicity"))
    averages = [gain for gain in g.describe(frame).gains if gain.task is None]
    assert averages == []


def test_a_flagged_run_is_in_the_mean_and_told_apart():
    frame = make_frame(seeds=(1, 2))
    frame = set_scores(frame, "student/lora", {1: 0.80, 2: 0.50})
    frame = set_scores(frame, "student/kd-lora", {1: 0.81, 2: 0.82})
    frame = put(frame, {"arm": "student/lora", "seed": 2}, flags=("constant_predictions",))
    gain = gain_of(frame, g.DISTILLATION)
    assert gain.mean == pytest.approx((0.01 + 0.32) / 2)
    assert gain.unflagged == pytest.approx(0.01)
    assert len(gain.flagged) == 1
    frame = put(frame, {"arm": "student/kd-lora", "seed": 1}, flags=("nan",))
    assert gain_of(frame, g.DISTILLATION).unflagged is None


def test_a_flagged_run_that_serves_several_seeds_is_told_apart_in_all_of_them():
    """As a teacher that was given does, which is done once for all seeds."""
    frame = put(make_frame(seeds=(1, 2)), {"arm": "student/lora"}, flags=("nan",), run_id="once")
    gain = gain_of(frame, g.DISTILLATION)
    assert (gain.seeds, gain.unflagged, gain.flagged) == ((1, 2), None, ("once",))


def ranked(frame):
    students, split = g.describe(frame).students[PAIR]
    return [student.arm for student in students], split


def test_students_are_ranked_by_selection_not_by_what_is_reported():
    frame = make_frame()
    for arm, selection, report in (
        ("student/fft", 0.80, 0.90), ("student/lora", 0.82, 0.70), ("student/kd-lora", 0.81, 0.95)
    ):  # fmt: skip
        frame = put(frame, {"arm": arm}, selection_score=selection, score=report)
    assert ranked(frame) == (["student/lora", "student/kd-lora", "student/fft"], "selection")
    lacking = put(frame, {"arm": "student/lora"}, selection_score=None)
    assert ranked(lacking) == (["student/kd-lora", "student/fft"], "selection")
    foreign = put(frame, {"role": "student"}, selection_score=None)
    assert ranked(foreign) == (["student/kd-lora", "student/fft", "student/lora"], "report")


def test_less_is_better_when_ranking_too():
    frame = make_frame(("toxicity",))
    for arm, selection in (("student/fft", 0.3), ("student/lora", 0.2), ("student/kd-lora", 0.4)):
        frame = put(frame, {"arm": arm}, selection_score=selection)
    assert ranked(frame)[0] == ["student/lora", "student/fft", "student/kd-lora"]


def test_first_and_second_student_are_compared_once():
    frame = make_frame()
    frame = put(frame, {"arm": "student/fft"}, selection_score=0.9)
    frame = put(frame, {"arm": "student/kd-lora"}, selection_score=0.8)
    frame = put(frame, {"arm": "student/lora"}, selection_score=0.7)
    runner_up = gain_of(frame, g.RUNNER_UP).comparison
    assert (runner_up.arm, runner_up.base) == ("student/fft", "student/kd-lora")
    known = put(frame, {"arm": "student/fft"}, selection_score=0.1)  # kd-lora, then lora
    effects = [gain.comparison.effect for gain in g.describe(known).gains]
    assert g.RUNNER_UP not in effects


def test_pairs_of_encoders_are_kept_apart():
    import pandas as pd

    other = make_frame(pair="bert--distilbert")
    other = with_prefix(other, "other-")
    other["score"] = other["score"] - 0.1
    facts = g.describe(pd.concat([make_frame(), other], ignore_index=True))
    means = {gain.pair: gain.mean for gain in facts.overall("bert--distilbert")}
    assert set(means) == {"bert--distilbert"}
    first, second = (
        {o.arm: o.score.mean for o in facts.outcomes[pair]} for pair in (PAIR, "bert--distilbert")
    )
    assert first["teacher/fft"] - second["teacher/fft"] == pytest.approx(0.1)
