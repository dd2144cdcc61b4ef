from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kdlora.errors import InputError
from kdlora.evidence.comparison import Comparison
from kdlora.evidence.questions import ask, ask_for, compare_named, questions
from kdlora.evidence.result import Rules
from kdlora.records.tidy import StudyFrame
from tests.harness.evidence_frames import VARIANTS, grid, runs_742

ARMS = ["teacher/fft", "teacher/lora", "student/fft", "student/lora", "student/kd-lora"]
FFT = "teacher/fft"
RULES = Rules(draws=0, permutations=0)
UNRELATED = {  # to the distilled students: what joins the study beside them
    "teachers": ["teacher/dora", "teacher/olora", "teacher/mrlora", "teacher/rslora"],
    "students": ["student/dora", "student/olora"],
    "copies": ["student/kd-lora[rank 16]", "student/kd-lora[temperature=4]"],
    "baselines": ["baseline/majority", "baseline/tfidf"],
    "imported": ["other/bert-tiny", "other/some model"],
}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def answers(frame: pd.DataFrame, arms: list[str]) -> dict[tuple[str, str], Comparison]:
    study = StudyFrame.of(frame[frame["arm"].isin(arms)])
    found = ask(study, questions(arms, FFT), rng=rng(), rules=RULES)
    return {(c.a, c.b): c for family in found.values() for c in family}


def test_the_questions_tell_distillation_from_size() -> None:
    asked = questions(ARMS, FFT)
    assert asked["gain of distillation"] == [("student/kd-lora", "student/lora")]
    assert asked["smaller encoder"] == [
        ("student/fft", "teacher/fft"),
        ("student/lora", "teacher/lora"),
    ]
    assert asked["students against teacher/fft"] == [
        ("student/fft", "teacher/fft"),
        ("student/lora", "teacher/fft"),
    ]
    assert asked["distilled students against teacher/fft"] == [("student/kd-lora", "teacher/fft")]
    assert "gain of distillation" not in questions([FFT, "student/kd-lora"], FFT)


def test_a_control_of_as_many_steps_is_asked_about_with_the_student_alone() -> None:
    asked = questions([*ARMS, "student/lora[equal-steps]", "student/lora[rank=4]"], FFT)
    assert asked["gain of distillation"] == [
        ("student/kd-lora", "student/lora"),
        ("student/kd-lora", "student/lora[equal-steps]"),
    ]


def test_copies_are_asked_about_apart_unless_there_is_no_plain_arm() -> None:
    ranks = ["student/kd-lora[rank 4]", "student/kd-lora[rank 8]", "teacher/lora[rank 8]"]
    asked = questions([FFT, *ranks], FFT)
    assert len(asked["distilled students against teacher/fft"]) == 2
    assert asked["distilled student and its adaptation on the teacher"] == [(ranks[1], ranks[2])]
    beside = questions([FFT, "student/kd-lora", *ranks], FFT)
    assert beside["distilled students against teacher/fft"] == [("student/kd-lora", FFT)]
    assert len(beside["distilled students against teacher/fft, changed settings"]) == 2


@pytest.mark.parametrize("kind", UNRELATED)
def test_arms_that_a_question_does_not_ask_about_change_nothing_of_its_answer(kind: str) -> None:
    draw = np.random.default_rng(3)
    every = [*ARMS, *UNRELATED[kind]]
    frame = grid(
        lambda arm, *_: 0.8 + 0.01 * (arm == FFT) + draw.normal(0, 0.01),
        arms=every, tasks=[f"t{i}" for i in range(7)],
    )  # fmt: skip
    alone, joined = answers(frame, ARMS), answers(frame, every)
    told = [pair for pair in alone if "kd" in pair[0]]
    assert len(told) == 3
    for pair in told:
        assert joined[pair].claim == alone[pair].claim
        assert joined[pair].claims == alone[pair].claims


def test_a_comparison_has_one_verdict_whoever_asks_for_it() -> None:
    draw = np.random.default_rng(4)
    frame = grid(lambda *_: 0.8 + draw.normal(0, 0.01), arms=ARMS, tasks=["t0", "t1", "t2"])
    study, asked = StudyFrame.of(frame), questions(ARMS, FFT)
    whole = ask(study, asked, rng=rng(), rules=RULES)
    by_pair: dict[tuple[str, str], list[Comparison]] = {}
    for family in whole.values():
        for c in family:
            by_pair.setdefault((c.a, c.b), []).append(c)
    assert any(len(found) > 1 for found in by_pair.values())  # two questions share a comparison
    for pair, found in by_pair.items():
        (named,) = ask_for(study, [pair], asked, rng=rng(), rules=RULES)
        assert {c.claim.p_corrected for c in [*found, named]} == {named.claim.p_corrected}
        assert {c.family_size for c in [*found, named]} == {named.family_size}


def test_what_no_question_asks_for_is_corrected_together() -> None:
    draw = np.random.default_rng(5)
    frame = grid(lambda *_: 0.8 + draw.normal(0, 0.01), arms=ARMS, tasks=["t0", "t1", "t2"])
    wanted = [("student/fft", "student/lora"), ("student/fft", "student/kd-lora")]
    first, second = ask_for(
        StudyFrame.of(frame), wanted, questions(ARMS, FFT), rng=rng(), rules=RULES
    )
    assert (first.a, first.b, second.b) == ("student/fft", "student/lora", "student/kd-lora")
    assert first.family_size == second.family_size == 2


def test_the_742_runs_say_the_same_of_distilled_students_with_or_without_adapters(
    shared: Path,
) -> None:
    frame = runs_742(shared)
    students = [FFT, *(f"student/kd-{v}" for v in VARIANTS)]
    alone = answers(frame, students)
    joined = answers(frame, sorted(set(frame["arm"])))
    assert {c.verdict for c in alone.values()} == {"inferior"}
    for pair, c in alone.items():
        assert joined[pair].claim == c.claim


def test_a_value_that_no_run_has_is_told_and_one_that_is_still_to_do_is_no_error() -> None:
    made = grid(lambda *_: 0.8, arms=["student/lora", "student/kd-lora"], rank=8.0)
    made.loc[made["seed"] == 3, "rank"] = 16.0
    study = StudyFrame.of(made)
    with pytest.raises(InputError) as caught:
        compare_named(study, ["student/lora,task=t00"], ["student/kd-lora,rank=9"], rng=rng())
    assert "'student/lora,task=t00': no row has it. Did you mean 't0'?" in str(caught.value)
    assert "'student/kd-lora,rank=9': no row has it." in str(caught.value)
    made.loc[made["rank"] == 16, "status"] = "missing"
    (found,) = compare_named(
        StudyFrame.of(made), ["student/lora,rank=16"], ["student/kd-lora"], rng=rng()
    )
    assert "no finished run of student/lora,rank=16" in found.matched.reason
