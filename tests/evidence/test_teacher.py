"""One teacher, whoever asks: the plan, the shares of its score, comparisons, export, matrix."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlora.evidence.gains import describe as gather
from kdlora.evidence.study import gather_report
from kdlora.evidence.teacher import named_teachers, reference_arm, teacher_arm, teacher_of
from kdlora.records.frame import load_frame
from kdlora.records.store import Store
from kdlora.records.tidy import tidy
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
