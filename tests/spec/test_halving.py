"""Races of a study: who is in them, how many go on, and what a study file may not ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.errors import InputError
from kdlora.spec.check import make_study
from kdlora.spec.halving import Halving, Race, races
from kdlora.spec.plan import make_plan
from kdlora.vocabulary.arm import matching

STUDY = {
    "name": "s",
    "tasks": ["movie-reviews"],
    "pairs": [{"teacher": "minilm-l6", "student": "minilm-l3"}],
    "arms": ["teacher/fft", "teacher/lora", "student/lora", "student/kd-lora", "student/kd-dora"],
    "ablations": [{"arm": "student/kd-lora", "vary": {"adapter.rank": [2, 4]}}],
    "seeds": [1, 2],
}


def _races(**changes):
    study = make_study({**STUDY, **changes})
    plan = make_plan(study)
    return plan, races(plan.halving, [vars(cell) for cell in plan.cells])


def test_patterns_name_arms_and_brackets_are_themselves():
    titles = ["student/kd-lora", "student/kd-lora[rank=2]", "student/kd-dora", "student/lora"]
    assert matching(["student/kd-*"], titles) == titles[:3]
    assert matching(["student/kd-lora[*]"], titles) == titles[1:2]
    assert matching(["student/kd-lora[rank=2]", "student/lora"], titles) == [titles[1], titles[3]]
    assert matching(["student/kd-l"], titles) == []


def test_a_race_in_every_block_in_the_plans_order():
    plan, found = _races(halving={"arms": "student/kd-*", "rungs": 1})
    assert [(race.pair, race.task, race.seed) for race in found] == [
        ("minilm-l6--minilm-l3", "movie-reviews", seed) for seed in (1, 2)
    ]
    titles = ["student/kd-lora", "student/kd-dora"]
    titles += [f"student/kd-lora[rank={rank}]" for rank in (2, 4)]
    assert [title for title, _ in found[0].candidates] == titles
    ids = {run.run_id: run for run in plan.runs}
    assert all(ids[run_id].seed == 2 for _, run_id in found[1].candidates)
    assert len({race.key for race in found}) == 2


def test_early_decisions_change_no_run():
    without, _ = _races()
    with_, _ = _races(halving={"arms": "student/kd-*"})
    assert [run.run_id for run in without.runs] == [run.run_id for run in with_.runs]


def test_other_candidates_or_rungs_are_another_race():
    keys = {
        _races(halving=halving)[1][0].key
        for halving in (
            {"arms": "student/kd-*"},
            {"arms": "student/kd-*", "keep": 0.6},
            {"arms": "student/kd-*", "rungs": 2},
            {"arms": "student/kd-lora*"},
        )
    }
    assert len(keys) == 4


def test_one_run_under_two_titles_is_one_candidate():
    same = {"same": {"arm": "student/kd-lora", "adapter": {"rank": 16}}}
    _, found = _races(
        halving={"arms": ["student/kd-lora", "student/kd-lora[same]"]}, variations=same
    )
    assert found == ()  # nothing to decide
    _, found = _races(halving={"arms": ["student/kd-*"]}, variations=same)
    assert len(found[0].candidates) == 4


@pytest.mark.parametrize(
    ("halving", "words"),
    [
        ({"arms": "student/kd-lra"}, "names no arm. Did you mean 'student/kd-lora'"),
        ({"arms": "student/kd-dora"}, "has nobody to race"),
        ({"arms": "teacher/*"}, "teacher/fft teaches the students"),
        ({"arms": ["teacher/lora", "student/lora"]}, "teachers and students do not race"),
        ({"arms": "student/*", "rungs": [1, 3]}, "rung 3 is no early decision for runs of 3"),
        ({"arms": "student/*", "rungs": [2, 1]}, "in rising order"),
        ({"arms": "student/*", "keep": 1.0}, "less than 1"),
        ({"arms": "student/*", "kep": 0.5}, "Did you mean 'keep'"),
        ([{"arms": "student/*"}, {"arms": "student/kd-*"}], "races already in halving.0"),
    ],
)
def test_what_cannot_be_raced(halving, words):
    with pytest.raises(InputError, match=words):
        make_study({**STUDY, "halving": halving})


@given(n=st.integers(1, 60), keep=st.fractions(min_value="1/50", max_value="49/50"))
def test_the_share_that_goes_on(n, keep):
    race = Race("p", "t", 1, (), (1,), float(keep))
    kept = race.survivors(n)
    assert 1 <= kept <= n
    assert kept - 1 < keep * n <= kept or (kept == 1 and keep * n < 1)


def test_a_share_that_is_whole_is_not_rounded_up():
    assert Race("p", "t", 1, (), (1,), 0.6).survivors(5) == 3
    assert Race("p", "t", 1, (), (1,), 0.1).survivors(30) == 3


def test_defaults():
    made = Halving(arms=("a", "b"))
    assert (made.rungs, made.keep) == ((1,), 0.5)
