"""Sentences hold exactly when their condition does, and claim no more than was measured."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from kdlora.choice.recommend import recommend_profiles
from kdlora.evidence.gains import describe as gather
from kdlora.evidence.students import better_baseline
from kdlora.report.content import answer, cost, gains, pair_answer
from tests.harness.studies import blank, make_frame, put, with_prefix

PAIR = "minilm-l6--minilm-l3"


def scores(frame, **by_arm):
    """Scores for every seed, or per seed as a list."""
    for arm, values in by_arm.items():
        arm = arm.replace("__", "/").replace("_", "-")
        seeds = sorted(set(frame.loc[frame["arm"] == arm, "seed"]))
        values = values if isinstance(values, list) else [values] * len(seeds)
        for seed, value in zip(seeds, values, strict=True):
            where = {"arm": arm, "seed": seed}
            frame = put(frame, where, score=value, selection_score=value)
    return frame


def exact(**changes):
    values = {
        "teacher__fft": 0.80, "teacher__lora": 0.79, "student__fft": 0.74, "student__lora": 0.70,
        "student__kd_lora": 0.76, "baseline__majority": 0.50, "baseline__tfidf": 0.65,
    }  # fmt: skip
    return scores(make_frame(), **(values | changes))


def test_the_first_student_is_put_in_numbers():
    text = pair_answer.teacher_share(gather(exact()), PAIR).text
    assert "The KD-LoRA student keeps 95.0 % of the teacher's score: 76.0 against 80.0" in text
    assert "gains over the majority baseline it keeps 86.7 %" in text  # 26 of 30 points
    assert "takes 69.6 MB against 90.9 MB" in text
    assert "answers in 2.77 ms, 1.87 times as fast" in text
    assert "2 runs" in text
    assert "first among the students on the selection split" in text


def test_no_share_is_stated_of_a_teacher_at_the_majoritys_level():
    text = pair_answer.teacher_share(gather(exact(teacher__fft=0.51)), PAIR).text
    assert "keeps" not in text
    assert "it is not clearly above the majority baseline (50.0 points)" in text


def test_a_share_of_some_of_the_tasks_says_of_how_many():
    frame = scores(make_frame(("rte", "sst2")), teacher__fft=0.8, student__kd_lora=0.76,
                   student__lora=0.7, student__fft=0.7, baseline__majority=0.5)  # fmt: skip
    assert "over 1 of 2" not in pair_answer.teacher_share(gather(frame), PAIR).text
    for arm in ("teacher/fft", "student/kd-lora"):
        frame = put(frame, {"arm": arm, "task": "sst2"}, score=0.51)
    facts = gather(frame)
    text = pair_answer.teacher_share(facts, PAIR).text
    assert "keeps 95.0 % of the teacher's score over 1 of 2 tasks" in text
    assert "It scores 63.5 against 65.5 points" in text
    assert "over 1 of 2 tasks" in " ".join(answer.summary(facts).notes)


def test_no_share_is_stated_of_an_error():
    facts = gather(make_frame(("toxicity",)))
    text = pair_answer.teacher_share(facts, PAIR).text
    assert "%" not in text
    assert "lower is better" in text


def test_what_was_not_measured_is_not_said():
    frame = exact()
    frame["speedup_latency"] = None
    text = pair_answer.teacher_share(gather(frame), PAIR).text
    assert "times as fast" not in text
    assert "answers in 2.77 ms." in text
    frame["latency_p50_ms"] = frame["size_mb"] = None
    assert " It takes" not in pair_answer.teacher_share(gather(frame), PAIR).text


def test_a_flagged_run_behind_the_headline_is_said():
    where = {"arm": "student/kd-lora", "seed": 42}
    assert "flag" not in pair_answer.teacher_share(gather(exact()), PAIR).text
    assert (
        "Without runs that carry a health flag: 76.0 against 80.0 points, which is 95.0 %"
        in pair_answer.teacher_share(gather(put(exact(), where, flags=("nan",))), PAIR).text
    )


def test_a_choice_by_the_reported_score_is_owned_up_to():
    frame = exact()
    frame["selection_score"] = None
    assert "flatters it" in pair_answer.teacher_share(gather(frame), PAIR).text


def test_no_teacher_no_comparison():
    frame = make_frame(arms=("student/fft", "student/lora"))
    assert pair_answer.teacher_share(gather(frame), PAIR) is None
    assert gains.distillation(gather(frame), PAIR) is None
    assert gains.smaller_encoder(gather(frame), PAIR) is None
    assert gains.adapter(gather(frame), PAIR) is not None


def test_each_seed_of_distillation_is_listed_and_nothing_tested():
    frame = exact(student__lora=[0.70, 0.75], student__kd_lora=[0.76, 0.74])
    text = gains.distillation(gather(frame), PAIR).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "the LoRA student by +2.5 points on average over 2 seeds" in text
    assert "(seed 42: +6.0; seed 43: \N{MINUS SIGN}1.0)" in text


def test_a_missing_control_is_said():
    assert pair_answer.no_control(gather(exact()), PAIR) is None
    arms = ("teacher/fft", "student/lora", "student/kd-lora", "student/kd-dora")
    text = pair_answer.no_control(gather(make_frame(arms=arms)), PAIR).text
    assert "no control without distillation for the KD-DoRA student:" in text
    text = pair_answer.no_control(
        gather(make_frame(arms=("teacher/fft", "student/kd-lora"))), PAIR
    ).text
    assert "for any distilled student:" in text


def test_many_seeds_are_summed_up():
    text = gains.distillation(gather(make_frame(seeds=range(8))), PAIR).text
    assert "seed 3" not in text
    assert re.search(r"above zero in \d\)", text)


def test_distillation_over_tasks_counts_its_pairs():
    facts = gather(make_frame(("rte", "cola"), seeds=(1, 2, 3)))
    (gain,) = facts.overall(PAIR, "distillation")
    expected = f"over 2 tasks and 3 seeds, above zero in {gain.above_zero} of 6 pairs"
    assert expected in gains.distillation(facts, PAIR).text


def test_a_gain_made_by_a_collapsed_control_is_told_from_a_gain():
    frame = exact(student__lora=[0.70, 0.50], student__kd_lora=[0.71, 0.70])
    frame = put(frame, {"arm": "student/lora", "seed": 43}, flags=("constant_predictions",))
    facts = gather(frame)
    assert "+10.5 points" in gains.distillation(facts, PAIR).text
    assert "but +1.0 points without the pairs in which a run is flagged" in (
        gains.distillation(facts, PAIR).text
    )
    assert "[\N{MINUS SIGN}9.0 without flagged pairs]" in gains.smaller_encoder(facts, PAIR).text


def test_an_encoder_below_the_linear_model_is_named_with_both_scores():
    facts = gather(exact(student__lora=0.64))
    text = pair_answer.linear_baseline(facts, PAIR).text
    assert "not beaten by the LoRA student (64.0) on movie-reviews, where it scores 65.0" in text
    assert "KD-LoRA" not in text


def test_a_tie_with_the_linear_model_is_no_win():
    assert (
        "not beaten by" in pair_answer.linear_baseline(gather(exact(student__lora=0.65)), PAIR).text
    )


@pytest.mark.parametrize("floor", [0.8424, 0.8426, 0.8431, 0.8432, 0.8436])
def test_terminal_report_and_recommendation_agree_whether_a_student_is_above(floor):
    """Scores that are shown as one number are level, on whichever split."""
    frame = exact(student__kd_lora=0.8432, student__lora=0.8432, baseline__tfidf=floor)
    run = str(frame.loc[frame["arm"] == "student/kd-lora", "run_id"].iloc[0])
    made = recommend_profiles(frame, {}, ()).found
    (student,) = (one for one in made if one.profile == "student")
    told = pair_answer.linear_baseline(gather(frame), PAIR).text
    above = round(100 * 0.8432, 1) > round(100 * floor, 1)
    assert (better_baseline(frame, run) is None) == above
    assert student.beats_baseline == above
    assert ("KD-LoRA" not in told) == above


def test_every_encoder_above_the_linear_model():
    text = pair_answer.linear_baseline(gather(exact()), PAIR).text
    assert text == (
        "On the report split every encoder's mean is above TF-IDF with a linear model on "
        "movie-reviews."
    )
    assert pair_answer.linear_baseline(gather(make_frame(baselines=False)), PAIR) is None


def test_lower_is_better_for_the_linear_model_too():
    frame = scores(make_frame(("toxicity",)), student__lora=0.40, baseline__tfidf=0.30)
    text = pair_answer.linear_baseline(gather(frame), PAIR).text
    assert "the LoRA student (0.400) on toxicity" in text
    assert "teacher" not in text


def test_the_runner_up_and_its_distance():
    text = pair_answer.runner_up(gather(exact()), PAIR).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "comes the fully fine-tuned student at 74.0 points" in text
    assert "the first minus it is +2.0 points on average over 2 seeds" in text
    assert (
        pair_answer.runner_up(gather(make_frame(arms=("teacher/fft", "student/fft"))), PAIR) is None
    )


def test_the_runner_up_of_a_known_pair_points_the_right_way():
    frame = exact(student__fft=0.60, student__lora=0.77)  # lora first, kd-lora next
    text = pair_answer.runner_up(gather(frame), PAIR).text
    assert "it minus the first is \N{MINUS SIGN}1.0 points" in text


def test_trained_shares():
    text = cost.trained_share(gather(exact())).text
    assert "the LoRA teacher: 1.18 M of 22.7 M" in text
    assert "the LoRA student and the KD-LoRA student: 591 k of 17.4 M" in text
    assert "fully" not in text
    assert cost.trained_share(gather(make_frame(arms=("teacher/fft", "student/fft")))) is None


def test_nothing_shared_yet_is_said_and_nothing_else_compared():
    frame = make_frame(seeds=(1,))
    frame = blank(frame, {"arm": "student/lora"}, "failed", "x")
    assert pair_answer.no_answer(gather(frame)) is None  # an arm without any result empties nothing
    frame = make_frame(seeds=(1, 2))
    for arm, seed in (("student/lora", 1), ("student/kd-lora", 2)):
        frame = blank(frame, {"arm": arm, "seed": seed}, "failed", "x")
    facts = gather(frame)
    assert pair_answer.no_answer(facts) is not None
    assert "with the teacher where both have one" in pair_answer.no_answer(facts).text
    assert "96.5 % of the teacher's score" in pair_answer.teacher_share(facts, PAIR).text


def test_flagged_runs_are_announced_once_each():
    assert pair_answer.doubtful(gather(exact())) is None
    frame = put(exact(), {"arm": "student/lora"}, flags=("a", "b"))
    assert "include 2 runs that carry a health flag" in pair_answer.doubtful(gather(frame)).text


def test_sentences_of_several_pairs_name_their_pair():
    other = make_frame(pair="bert--distilbert")
    other = with_prefix(other, "other-")
    facts = gather(pd.concat([make_frame(), other], ignore_index=True))
    topics = [finding.topic for finding in pair_answer.sentences(facts, pair_answer.ALL)]
    assert "bert--distilbert: The student" in topics
    assert f"{PAIR}: The student" in topics


@pytest.mark.parametrize("seeds", [(1,), (1, 2), tuple(range(8))])
def test_no_sentence_claims_a_significance_or_an_equality(seeds, troubled):
    for frame in (make_frame(seeds=seeds), troubled):
        found = pair_answer.sentences(gather(frame), pair_answer.ALL)
        text = " ".join(finding.text for finding in found).lower()
        for claim in ("significant", "equal", "equivalent", "as good as", "no difference", "prove"):
            assert claim not in text
