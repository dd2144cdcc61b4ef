"""The order of runs and what becomes of them, decided without a process or a clock."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlora.engines.schedule import OPEN, Schedule, with_teachers
from kdlora.engines.selection import chosen_runs
from kdlora.errors import InputError, KdloraError
from kdlora.spec.check import make_study
from kdlora.spec.plan import Plan, PlannedCell, make_plan
from kdlora.vocabulary.arm import labelled, matching


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Two tasks, two pairs that share a teacher, two seeds."""
    pairs = [
        {"name": n, "teacher": "big", "student": s} for n, s in (("p", "small"), ("q", "less"))
    ]
    arms = ["teacher/fft", "student/fft", "student/kd-lora", "student/kd-dora"]
    values = {"name": "s", "tasks": ["rte", "mrpc"], "pairs": pairs, "arms": arms, "seeds": [1, 2]}
    return make_plan(make_study(values | {"baselines": False}))


@dataclass(frozen=True)
class Job:
    """A run as far as a schedule sees it."""

    run_id: str
    teachers: tuple[str, ...] = ()


def small_plan(teachers: dict[str, tuple[str, ...]], blocks: dict[str, int] | None = None) -> Plan:
    runs = [Job(run_id, found) for run_id, found in teachers.items()]
    cells = [
        PlannedCell("p", "t", "a", (blocks or {}).get(job.run_id, 1), job.run_id) for job in runs
    ]
    return Plan(runs, cells)  # type: ignore[arg-type]


def run_all(schedule: Schedule, *, ends=lambda run: "done") -> list[str]:
    order = []
    while (run := schedule.take()) is not None:
        order.append(run.run_id)
        schedule.ended(run.run_id, ends(run))
    return order


def test_whole_blocks_first_and_a_teacher_before_its_students(plan):
    schedule = Schedule(plan)
    order = run_all(schedule)
    assert sorted(order) == sorted(run.run_id for run in plan.runs)
    place = {run_id: index for index, run_id in enumerate(order)}
    blocks = {}
    for cell in plan.cells:
        blocks.setdefault((cell.seed, cell.task, cell.pair), []).append(place[cell.run_id])
    ends = [max(places) for places in blocks.values()]
    assert ends == sorted(ends)  # in the plan's order each block is complete before the next
    for run in plan.runs:
        assert all(place[teacher] < place[run.run_id] for teacher in run.teachers)


def test_the_longest_chain_of_a_block_goes_first():
    jobs = {"short": (), "long": (), "teacher": (), "student": ("teacher",), "next": ()}
    blocks = {"next": 2}
    seconds = {"short": 1.0, "long": 5.0, "teacher": 2.0, "student": 4.0, "next": 99.0}
    schedule = Schedule(small_plan(jobs, blocks), seconds=seconds)
    assert run_all(schedule) == ["teacher", "long", "student", "short", "next"]


def test_a_teacher_of_another_seed_comes_with_the_block_that_needs_it():
    jobs = {"other": (), "first": (), "far": (), "taught": ("other",)}
    schedule = Schedule(small_plan(jobs, {"far": 1, "first": 1, "taught": 1, "other": 2}))
    assert run_all(schedule).index("other") == 0


def test_a_later_block_fills_a_place_that_an_earlier_one_cannot():
    schedule = Schedule(small_plan({"t": (), "s": ("t",), "n": ()}, {"n": 2}))
    assert [schedule.take().run_id, schedule.take().run_id] == ["t", "n"]
    assert schedule.take() is None
    schedule.ended("t", "done")
    assert schedule.take().run_id == "s"


def test_logits_of_a_teacher_are_computed_by_one_student_while_the_others_wait():
    schedule = Schedule(small_plan({"t": (), "a": ("t",), "b": ("t",), "c": ("t",)}))
    schedule.ended(schedule.take().run_id, "done")
    assert schedule.take().run_id == "a"
    assert schedule.take() is None
    schedule.labelled("a")
    assert [schedule.take().run_id, schedule.take().run_id] == ["b", "c"]


@pytest.mark.parametrize("how", ["failed", "leased", "again"])
def test_a_student_that_ends_before_it_has_the_logits_blocks_nobody(how):
    schedule = Schedule(small_plan({"t": (), "a": ("t",), "b": ("t",)}))
    schedule.ended(schedule.take().run_id, "done")
    assert schedule.take().run_id == "a"
    if how == "failed":
        schedule.ended("a", "failed")
    else:
        getattr(schedule, how)("a")
    assert schedule.take().run_id == ("a" if how == "again" else "b")


def test_what_needs_a_failed_run_is_skipped_and_told_why():
    schedule = Schedule(small_plan({"t": (), "s": ("t",), "deep": ("s",), "free": ()}))
    order = run_all(schedule, ends=lambda run: "failed" if run.run_id == "t" else "done")
    assert order == ["t", "free"]
    assert schedule.open == 0
    assert schedule.states == {"t": "failed", "s": "skipped", "deep": "skipped", "free": "done"}
    assert [(run.run_id, why) for run, why in schedule.news()] == [
        ("s", "its teacher t is not done"),
        ("deep", "its teacher s is not done"),
    ]
    assert schedule.news() == []


def test_a_run_whose_record_is_gone_is_done_again_before_what_learns_from_it():
    schedule = Schedule(small_plan({"t": (), "a": ("t",), "b": ("t",), "n": ()}), seconds={"t": 9})
    assert schedule.take().run_id == "t"
    schedule.ended("t", "done")
    assert schedule.take().run_id == "a"
    schedule.labelled("a")
    left, before = schedule.open, schedule.remaining_s(1)
    schedule.lost("t")
    schedule.again("a")
    assert schedule.open == left + 1
    assert schedule.remaining_s(1) == pytest.approx(before + 9)
    assert [schedule.take().run_id, schedule.take().run_id] == ["t", "n"]
    assert schedule.take() is None  # both students wait
    schedule.ended("t", "done")
    assert schedule.take().run_id == "a"
    assert schedule.take() is None  # its logits are computed anew, and once
    schedule.labelled("a")
    assert schedule.take().run_id == "b"


def test_a_run_that_is_not_done_cannot_be_lost():
    schedule = Schedule(small_plan({"t": (), "s": ("t",)}), failed={"t"})
    schedule.lost("t")
    assert schedule.states == {"t": "failed", "s": "skipped"}
    assert schedule.open == 0


def test_what_failed_before_is_not_tried_and_what_is_done_is_not_done_again():
    jobs = {"t": (), "s": ("t",), "bad": (), "taught": ("bad",)}
    schedule = Schedule(small_plan(jobs), done={"t"}, failed={"bad"})
    assert run_all(schedule) == ["s"]
    assert schedule.states["taught"] == "skipped"


def test_what_would_not_end_in_time_starts_last_and_nothing_when_the_time_is_over():
    seconds = {"long": 90.0, "longer": 80.0, "short": 10.0}
    jobs: dict[str, tuple[str, ...]] = dict.fromkeys(seconds, ())
    schedule = Schedule(small_plan(jobs), seconds=seconds)
    assert schedule.take(0.0) is None
    assert [schedule.take(60.0).run_id for _ in seconds] == ["short", "long", "longer"]
    assert schedule.take(60.0) is None


def test_a_run_that_has_a_checkpoint_goes_on_although_it_would_not_end_in_time():
    seconds = {"begun": 90.0, "short": 10.0}
    schedule = Schedule(
        small_plan({"short": (), "begun": ()}),
        seconds=seconds,
        begun=lambda run: run.run_id == "begun",
    )
    assert schedule.take(60.0).run_id == "begun"


def test_whether_a_run_would_end_in_time_follows_what_runs_really_took():
    seconds = {"first": 50.0, "second": 40.0, "third": 30.0}
    jobs: dict[str, tuple[str, ...]] = dict.fromkeys(seconds, ())
    schedule = Schedule(small_plan(jobs), seconds=seconds)
    assert schedule.take(100.0).run_id == "first"
    schedule.ended("first", "done", took_s=500.0)  # 620 s where 170 were estimated
    assert schedule.take(120.0).run_id == "third"  # about 110 s, and the second about 146
    assert (
        Schedule(small_plan(jobs), seconds=seconds, done={"first"}).take(120.0).run_id == "second"
    )


def test_closing_leaves_the_rest_for_later_but_what_runs_may_end():
    schedule = Schedule(small_plan({"a": (), "b": (), "c": ()}))
    schedule.take()
    schedule.take()
    schedule.leased("b")
    schedule.close()
    assert schedule.states == {"a": "running", "b": "later", "c": "later"}
    assert schedule.open == 1
    schedule.ended("a", "done")
    assert schedule.open == 0


def test_decisions_hold_a_run_back_until_another_has_ended_or_stop_it():
    says = {"a": "go", "b": "wait", "c": "stop"}
    schedule = Schedule(small_plan({"b": (), "c": (), "a": ()}), decide=lambda r: says[r.run_id])
    assert schedule.take().run_id == "a"
    assert schedule.take() is None
    assert schedule.states["c"] == "stopped"
    says["b"] = "go"
    assert schedule.take() is None  # nothing has happened since it was asked
    schedule.ended("a", "done")
    assert schedule.take().run_id == "b"


def test_the_remaining_time_follows_what_runs_really_took():
    jobs: dict[str, tuple[str, ...]] = dict.fromkeys("abcd", ())
    blind = Schedule(small_plan(jobs))
    assert blind.remaining_s(1) is None
    run = blind.take()
    blind.ended(run.run_id, "done", took_s=20.0)
    assert blind.remaining_s(1) == pytest.approx(60.0)
    assert blind.remaining_s(2, [10.0]) == pytest.approx(25.0)
    guided = Schedule(small_plan(jobs), seconds=dict.fromkeys(jobs, 10.0))
    assert guided.remaining_s(1) == pytest.approx(40.0)
    guided.ended(guided.take().run_id, "done", took_s=50.0)  # trusted as much as three estimates
    assert guided.remaining_s(1) == pytest.approx(30.0 * (3 * 10 + 50) / (3 * 10 + 10))


def test_a_student_whose_teacher_is_not_planned_is_an_error():
    with pytest.raises(KdloraError, match="no run t, the teacher of s"):
        Schedule(small_plan({"s": ("t",)}))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 10**6))
def test_whatever_happens_every_run_ends_once_and_after_its_teachers(n, workers, seed):
    """Random plans, failures, kills, records that go, and other machines, with several places."""
    rng = random.Random(seed)
    jobs: dict[str, tuple[str, ...]] = {}
    for number in range(n):
        jobs[f"r{number}"] = tuple(rng.sample(list(jobs), min(len(jobs), rng.choice([0, 0, 1, 2]))))
    schedule = Schedule(small_plan(jobs, {name: rng.randint(1, 4) for name in jobs}))
    running: list[str] = []
    for _ in range(200 * n):
        while len(running) < workers and (run := schedule.take()) is not None:
            assert all(schedule.states[teacher] == "done" for teacher in run.teachers)
            assert run.run_id not in running
            running.append(run.run_id)
        if not schedule.open:
            break
        away = [run.run_id for run in schedule.in_state("leased")]
        done = [run.run_id for run in schedule.in_state("done")]
        if done and rng.random() < 0.1:
            schedule.lost(rng.choice(done))
        if not running + away:
            continue
        name = rng.choice(running + away)
        what = rng.choice(["labelled", "done", "done", "failed", "again", "leased"])
        if what == "labelled":
            schedule.labelled(name)
            continue
        if name in running:
            running.remove(name)
        if what in ("again", "leased"):
            getattr(schedule, what)(name)
        else:
            schedule.ended(name, what)
    assert schedule.open == 0
    assert not any(state in OPEN for state in schedule.states.values())


def test_a_hundred_thousand_runs_are_scheduled_in_seconds():
    rng = random.Random(0)
    jobs: dict[str, tuple[str, ...]] = {}
    for number in range(100_000):
        jobs[f"r{number}"] = () if number % 10 == 0 else (f"r{number - number % 10}",)
    blocks = {name: int(name[1:]) // 100 for name in jobs}
    schedule = Schedule(small_plan(jobs, blocks), seconds={n: rng.random() for n in jobs})
    assert len(run_all(schedule)) == 100_000


ONLY = [
    (["rte"], lambda c: c.task == "rte"),
    (["rte", "mrpc"], lambda c: True),
    (["task=rte", "seed=2"], lambda c: c.task == "rte" and c.seed == 2),
    (["student/kd-*"], lambda c: c.arm.startswith("student/kd-")),
    (["arm=/kd-(dora|olora)/", "pair=q"], lambda c: c.arm.endswith("dora") and c.pair == "q"),
    (["seed=1", "seed=2", "arm=student/fft"], lambda c: c.arm == "student/fft"),
    (["run=/^rte-teacher/"], lambda c: c.run_id.startswith("rte-teacher")),
]


@pytest.mark.parametrize(("patterns", "wanted"), ONLY, ids=[" ".join(p) for p, _ in ONLY])
def test_only_names_runs_by_their_place_in_the_table(plan, patterns, wanted):
    assert chosen_runs(plan, patterns) == {c.run_id for c in plan.cells if wanted(c)}


def test_an_arm_with_a_label_is_named_as_it_is_shown():
    study = {"name": "s", "tasks": ["rte"], "pairs": [{"teacher": "big", "student": "small"}]}
    study |= {
        "variations": {"warm": {"arm": "student/kd-lora", "distillation": {"temperature": 9}}}
    }
    plan = make_plan(make_study(study))
    chosen = chosen_runs(plan, ["student/kd-lora[warm]"])
    assert {run.label for run in plan.runs if run.run_id in chosen} == {"warm"}


@pytest.mark.parametrize(
    "pattern",
    ["student/kd-lora[rank=8]", "student/kd-lora[rank=*]", "*[rank=4]", "*", "student/?d-lora"],
)
def test_only_means_by_a_pattern_the_arms_that_a_comparison_means(pattern):
    study = {"name": "s", "tasks": ["rte"], "pairs": [{"teacher": "big", "student": "small"}]}
    study |= {"ranks": [2, 4, 8], "arms": ["student/lora", "student/kd-lora"]}
    plan = make_plan(make_study(study))
    arms = {(r.title, r.run_id) for r in plan.runs}
    arms |= {(labelled(c.arm, c.label), c.run_id) for c in plan.cells}
    meant = matching([pattern], {arm for arm, _ in arms})
    if meant:
        found = chosen_runs(plan, [f"arm={pattern}"])
        assert found == {run_id for arm, run_id in arms if arm in meant}
    else:
        with pytest.raises(InputError, match="no run of the plan fits"):
            chosen_runs(plan, [f"arm={pattern}"])


def test_what_is_chosen_brings_its_teachers(plan):
    only = chosen_runs(plan, ["arm=student/kd-lora", "seed=1", "rte"])
    schedule = Schedule(plan, only=only)
    assert set(schedule.runs) == with_teachers(plan, only) > only
    assert {run.arm for run in schedule.runs.values()} == {"teacher/fft", "student/kd-lora"}
    assert Schedule(plan, only=only, done=set(schedule.runs) - only).open == len(only)


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (["tsk=rte"], ["unknown field 'tsk'", "Did you mean 'task'"]),
        (["arm=/(/", "tsk=rte"], ["2 problems", "no regular expression", "unknown field"]),
        (["seed=9"], ["no run of the plan fits", "Seeds: 1, 2", "Tasks: rte, mrpc"]),
    ],
)
def test_a_wrong_only_is_explained(plan, patterns, words):
    with pytest.raises(InputError) as caught:
        chosen_runs(plan, patterns)
    assert all(word in str(caught.value) for word in words)
