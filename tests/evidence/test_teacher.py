"""One teacher, whoever asks: the plan, the shares of its score, comparisons, export, matrix."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlora.evidence.averages import averages
from kdlora.evidence.gains import describe as gather
from kdlora.evidence.result import Rules
from kdlora.evidence.study import gather as gather_study
from kdlora.evidence.study import gather_report
from kdlora.evidence.teacher import named_teachers, reference_arm, teacher_arm, teacher_of
from kdlora.records.frame import load_frame
from kdlora.records.store import Store
from kdlora.records.tidy import StudyFrame, tidy
from kdlora.ship.source import find_source, find_teacher
from kdlora.spec.run import FileTeacherRun
from kdlora.vocabulary.arm import Arm, teaching_arm
from tests.harness.evidence_frames import grid, noisy
from tests.harness.stored_studies import same_on_both, store_study
from tests.harness.studies import make_frame

TEACHERS = ("teacher/fft", "teacher/lora", "teacher/rslora", "teacher/mrlora", "teacher/dora")
STUDENTS = ("student/lora", "student/kd-lora", "student/kd-fft")


@st.composite
def studies(draw: st.DrawFn) -> dict[str, Any]:
    """Teacher arms in any order, given and trained pairs, ensembles, several seeds."""
    teachers = draw(st.lists(st.sampled_from(TEACHERS), unique=True, max_size=4))
    students = draw(st.lists(st.sampled_from(STUDENTS), unique=True, min_size=1))
    ways = draw(st.lists(st.sampled_from(["trained", "given", "file"]), min_size=1, max_size=3))
    ensemble = "trained" in ways and set(ways) == {"trained"} and draw(st.booleans())
    return {
        "arms": draw(st.permutations([*teachers, *students])),
        "ways": ways,
        "seeds": draw(st.sampled_from([[1], [1, 2]])),
        "distillation": {"teacher_seeds": "all"} if ensemble else {},
    }


def stored(root: Path, study: dict[str, Any]) -> Store:
    outputs = root / "outputs.csv"
    outputs.write_text("sentence1,sentence2,entailment,not_entailment\n")
    pairs = [
        {"name": f"p{i}", "teacher": f"big{i}", "student": "small"}
        | {"given": {"teacher_is_trained": True}, "trained": {}}.get(
            way, {"teacher_outputs": {"file": str(outputs), "kind": "logits"}}
        )
        for i, way in enumerate(study["ways"])
    ]
    score = {arm: 0.9 - 0.07 * i for i, arm in enumerate(("teacher/given", *TEACHERS))}
    return store_study(
        root / "study",
        same_on_both(lambda run: score.get(run.arm, 0.5) + 0.001 * run.seed),
        pairs=pairs,
        arms=study["arms"],
        seeds=study["seeds"],
        distillation=study["distillation"],
    )


@settings(max_examples=12, deadline=None)
@given(studies())
def test_everybody_names_the_teacher_that_the_records_name(study: dict[str, Any]) -> None:
    with TemporaryDirectory() as folder:
        store = stored(Path(folder), study)
        frame = load_frame(store.root)
        planned = {
            f"p{i}": str(teaching_arm(study["arms"], given=way != "trained"))
            for i, way in enumerate(study["ways"])
        }
        for name, rows in frame.groupby("pair"):
            found = teacher_of(rows)
            shown = planned[str(name)] in set(rows["arm"])
            assert found.arm == (planned[str(name)] if shown else None)
            assert found.taught == any("/kd-" in arm for arm in study["arms"])
            if found.taught:
                arms = {store.read(run).run.arm for run in found.run_ids}
                assert arms == {planned[str(name)]}
        _shares_are_of_the_teacher_that_taught(frame, planned)
        _exports_are_timed_beside_it(store, frame)
        taught = [planned[str(p)] for p in dict.fromkeys(frame["pair"])]
        if reference_arm(frame) not in taught:  # the teacher stands in no table
            assert not set(taught) & set(frame["arm"])


def _shares_are_of_the_teacher_that_taught(frame: pd.DataFrame, planned: dict[str, str]) -> None:
    for pair, outcomes in gather(frame).outcomes.items():
        means = {o.arm: o.score.mean for o in outcomes}
        for one in outcomes:
            expected = means.get(planned[pair])
            if expected is None:
                assert one.retained is None
            else:
                assert one.retained == pytest.approx(one.score.mean / expected)


def _exports_are_timed_beside_it(store: Store, frame: pd.DataFrame) -> None:
    students = frame[frame["role"] == "student"]
    for run_id, pair in zip(students["run_id"], students["pair"], strict=True):
        run = store.read(run_id).run
        teacher = find_teacher(find_source(store.folder(run_id)))
        runs = teacher_of(frame[frame["pair"] == run.pair]).run_ids
        if teacher is None or teacher.record is None:  # a file of outputs has no encoder
            assert all(isinstance(store.read(r).run, FileTeacherRun) for r in runs)
        elif run.distillation == "kd":
            assert teacher.record.run_id in run.teachers
        else:
            assert teacher.record.run_id in runs
            assert teacher.record.run.pair == run.pair or pair != run.pair


@given(st.permutations(TEACHERS), st.integers(1, 5), st.booleans())
def test_rows_in_any_order_name_the_same_teacher(arms, count, kd) -> None:
    arms = arms[:count]
    frame = grid(noisy(0.1), arms=(*arms, "student/kd-lora" if kd else "student/lora"))
    taught = frame["arm"].eq("student/kd-lora")
    teacher = f"{arms[0]}-bert-t0-1"
    frame = frame.assign(teacher_run_id=[teacher if one else None for one in taught])
    mixed = frame.sample(frac=1, random_state=1)
    assert teacher_of(frame) == teacher_of(frame.iloc[::-1]) or not kd
    assert teacher_arm(frame, "bert") == teacher_arm(mixed, "bert")
    if kd:
        assert teacher_arm(mixed, "bert") == arms[0] == reference_arm(mixed)


def test_without_a_taught_student_the_plans_rule_decides() -> None:
    arms = ["teacher/rslora", "teacher/lora", "student/lora"]
    frame = grid(noisy(0.1), arms=arms)
    assert teacher_of(frame).arm == "teacher/lora"  # the first in reading order: no plan is known
    assert teacher_of(frame.assign(teacher_arm="teacher/rslora")).arm == "teacher/rslora"
    assert not teacher_of(frame).taught
    given = grid(noisy(0.1), arms=["teacher/fft", "teacher/given", "student/lora"])
    assert reference_arm(given) == "teacher/given"
    assert reference_arm(grid(noisy(0.1), arms=["student/fft", "student/lora"])) == "student/fft"
    assert teacher_of(grid(noisy(0.1), arms=["student/fft"])).arm is None
    assert reference_arm(frame.iloc[:0]) == ""


def test_one_student_arm_may_have_two_teachers_in_two_pairs() -> None:
    frame = grid(noisy(0.1), arms=[*TEACHERS[:2], "student/kd-lora"], pairs=("p", "q"))
    named = {"p": "teacher/lora", "q": "teacher/fft"}
    frame["teacher_run_id"] = [
        f"{named[pair]}-{pair}-{task}-{seed}" if arm == "student/kd-lora" else None
        for arm, pair, task, seed in zip(
            frame["arm"], frame["pair"], frame["task"], frame["seed"], strict=True
        )
    ]
    assert {pair: teacher_arm(frame, pair) for pair in ("p", "q")} == named


def test_the_reports_reference_is_the_arm_that_taught() -> None:
    frame = make_frame(arms=("teacher/rslora", "teacher/lora", "student/kd-lora"), seeds=(1,))
    stats = gather_report(tidy(frame))
    assert stats is not None
    assert stats.reference == "teacher/rslora"
    assert f"teachers against {stats.reference}" in stats.families


def test_an_ensemble_names_all_its_members() -> None:
    frame = pd.DataFrame(
        {
            "teacher_run_id": ["a", None, "c", float("nan")],
            "teacher_run_ids": [("a", "b"), (), (), None],
        }
    )
    assert named_teachers(frame) == [("a", "b"), (), ("c",), ()]


def test_a_labelled_copy_never_teaches() -> None:
    arms = ["teacher/lora[rank=8]", "teacher/dora", "student/kd-lora"]
    assert teaching_arm(arms) == Arm("teacher", "dora")
    assert teaching_arm([]) == Arm("teacher", "fft")


MAJORITY, KD = "baseline/majority", "student/kd-lora"
ARMS = ("teacher/fft", "student/lora", KD, MAJORITY)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_all_tables_tell_the_same_share_of_the_same_tasks(seed: int, known: bool) -> None:
    draw = np.random.default_rng(seed)
    tasks = [f"t{i}" for i in range(1 + seed % 3)]
    gain = {task: float(draw.choice([-0.05, 0.012, 0.1, 0.3])) for task in tasks}
    floors = {task: float(draw.uniform(0.3, 0.6)) for task in tasks}

    def score(arm: str, pair: str, task: str, run: int) -> float:
        if arm == MAJORITY:
            return floors[task]
        return floors[task] + gain[task] * (1 if arm == "teacher/fft" else 0.9) + run / 10_000

    frame = grid(score, arms=ARMS if known else ARMS[:-1], tasks=tasks)
    told = [task for task in tasks if gain[task] > 0.02] if known else tasks
    own, teacher = (
        sum(score(arm, "", task, 2) for task in told) for arm in (KD, "teacher/fft")
    )  # fmt: skip
    share = own / teacher if told else None
    outcome = next(o for o in gather(frame).outcomes["bert"] if o.arm == KD)
    parts = ("averages by pair",)
    study = gather_study(frame, rng=draw, rules=Rules(permutations=0), parts=parts)
    tables = [study.aggregates, study.by_pair["bert"].common]
    kept = [next(a.retention for a in table if a.arm == KD) for table in tables]
    counts = [next(a.share_tasks for a in table if a.arm == KD) for table in tables]
    assert counts == [len(told)] * 2
    assert outcome.share_tasks == len(told)
    if share is None:
        assert (outcome.retained, *kept) == (None, None, None)
    else:
        assert outcome.retained == pytest.approx(share)
        assert kept == pytest.approx([100 * share] * 2)


def test_without_flagged_runs_a_share_is_told_by_the_same_rule() -> None:
    for teacher, told in ((0.515, False), (0.6, True)):
        scores = {"teacher/fft": teacher, MAJORITY: 0.5}
        frame = grid(lambda arm, *_, of=scores: of.get(arm, 0.55), arms=ARMS)
        frame["flags"] = [("x",) if a == KD and s == 1 else ()
                          for a, s in zip(frame["arm"], frame["seed"], strict=True)]  # fmt: skip
        one = next(o for o in gather(frame).outcomes["bert"] if o.arm == KD)
        assert one.without_flags is not None
        assert (one.retained is not None, one.without_flags.retained is not None) == (told, told)


def test_a_given_teacher_is_held_against_the_majority_of_its_cells() -> None:
    arms = ("teacher/given", "student/lora", KD, MAJORITY)
    for floor, told in ((0.3, 1), (0.79, 0)):
        frame = grid(lambda arm, *_, floor=floor: floor if arm == MAJORITY else 0.8,
                     arms=arms, tasks=["t"])  # fmt: skip
        found = averages(StudyFrame.of(frame), "teacher/given", rng=np.random.default_rng(0))
        assert {one.share_tasks for one in found.common} == {told}
