"""What `kdlora.run` says of a study whose runs failed; the engine is played here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest

import kdlora
from kdlora.data.encoder_files import tokenizer_rules
from kdlora.engines.execution import Execution
from kdlora.engines.failure import failed_record
from kdlora.errors import InputError, KdloraError, StudyFailed
from kdlora.planning import preflight
from kdlora.records.data_look import DataFinding, read_looks, write_looks
from kdlora.records.store import Store
from kdlora.spec.plan import Plan
from kdlora.spec.run import Run

TRACEBACK = "Traceback (most recent call last):\n  File ...\nOSError: no such luck"


@pytest.fixture
def ending(monkeypatch) -> Callable[[Callable[[Run], str]], None]:
    """Let every run end as a function of it says; those that fail leave a failure."""

    def play(state_of: Callable[[Run], str]) -> None:
        def run_plan(
            execution: Execution, plan: Plan, store: Store, *options: object, **told: object
        ) -> dict[str, str]:
            states = {run.run_id: state_of(run) for run in plan.runs}
            for run in plan.runs:
                if states[run.run_id] == "failed":
                    store.begin(run)
                    store.fail(failed_record(run, TRACEBACK))
            return states

        monkeypatch.setattr(Execution, "run_plan", run_plan)
        nothing = preflight.Inspected([], {}, rules=tokenizer_rules)
        monkeypatch.setattr(preflight, "preflight", lambda plan, on_note, ask: nothing)

    return play


@pytest.mark.parametrize("baselines", ["failed", "done"])
def test_a_study_of_which_nothing_was_trained_raises_with_its_first_error(
    baselines, corner, tmp_path, ending
):
    ends = {"teacher": "failed", "student": "skipped", "baseline": baselines}
    ending(lambda run: ends[run.role])
    with pytest.raises(StudyFailed, match=r"(?s)OSError: no such luck.*retry_failed") as caught:
        kdlora.run(corner.study(arms=["teacher/fft", "student/kd-lora"]), out=tmp_path / "out")
    assert isinstance(caught.value, KdloraError)
    assert "Traceback" not in str(caught.value)
    first = next(iter(caught.value.result.failed))
    assert f"The first, {first}: OSError" in str(caught.value)
    assert caught.value.result.student is None
    assert (tmp_path / "out" / "report.html").is_file()  # it says the same


def test_a_study_that_failed_in_part_says_what_and_why(corner, tmp_path, ending):
    ends = {"teacher/fft": "failed", "student/kd-lora": "skipped"}
    ending(lambda run: ends.get(run.arm, "later"))
    result = kdlora.run(corner.study(), out=tmp_path / "out")
    (failed,), (skipped,) = result.failed, result.skipped
    assert result.failed[failed] == TRACEBACK
    assert result.status[failed] == "failed"
    assert result.skipped[skipped] == f"its teacher {failed} is not done, but failed"
    assert "student-kd-lora" in skipped


def test_rows_in_memory_are_kept_in_the_study_and_mean_the_same_runs_again(
    corner, tmp_path, ending
):
    ending(lambda run: "later")
    frame = pd.read_csv(corner.train)
    given = {"text": "review", "label": "mood", "teacher": corner.teacher,
             "student": corner.student, "out": tmp_path / "out"}  # fmt: skip
    first = kdlora.distil(train=frame, eval=frame[:60], **given)
    again = kdlora.distil(
        train=frame.to_dict("records"), eval=frame[:60].to_dict("records"), **given
    )
    assert first.status == again.status
    kept = sorted((tmp_path / "out" / "data").glob("*/*"))
    assert [path.name for path in kept].count("train.jsonl") == 1
    assert {path.name for path in kept} == {"train.jsonl", "eval.jsonl"}
    with pytest.raises(InputError, match="no column 'mod'"):
        kdlora.distil(train=frame, **{**given, "label": "mod", "out": tmp_path / "new"})
    assert not (tmp_path / "new").exists()


def test_with_strict_doubtful_data_stops_a_study_before_anything_is_written(corner, tmp_path):
    frame = pd.read_csv(corner.train)
    twins = frame[:100].assign(mood=frame["mood"][:100].map({"pos": "neg", "neg": "pos"}))
    path = tmp_path / "doubtful.csv"
    pd.concat([frame, twins]).to_csv(path, index=False)
    task = {"name": "moods", "train": str(path), "text": "review", "label": "mood"}
    study = corner.study(tasks=[task], baselines=False)
    with pytest.raises(InputError, match="stand under several labels"):
        kdlora.run(study, out=tmp_path / "out", strict=True)
    assert not (tmp_path / "out").exists()


def left_for_later(execution: Execution, plan: Plan, *options: object, **told: object):
    return {run.run_id: "later" for run in plan.runs}


def test_what_a_look_found_is_told_and_kept(corner, tmp_path, monkeypatch):

    monkeypatch.setattr(Execution, "run_plan", left_for_later)
    notes: list[str] = []
    kdlora.run(corner.study(), out=tmp_path / "out", on_note=notes.append)
    (look,) = read_looks(tmp_path / "out")
    assert look.task == "moods"
    assert [count.encoders for count in look.tokens] == [(corner.teacher,), (corner.student,)]
    assert all(any(found.told in note for note in notes) for found in look.findings)
    page = (tmp_path / "out" / "report.md").read_text()
    assert "The data" in page


def test_what_was_found_in_a_task_that_the_study_no_longer_has_is_not_told(
    corner, tmp_path, monkeypatch
):
    monkeypatch.setattr(Execution, "run_plan", left_for_later)
    kdlora.run(corner.study(), out=tmp_path / "out")
    (look,) = read_looks(tmp_path / "out")
    doubt = DataFinding("duplicates", "warning", "half of the rows are ghosts")
    gone = replace(look, task="gone", findings=(doubt,))
    for kept, told in (([look, replace(gone, task="moods")], True), ([look, gone], False)):
        write_looks(kept, tmp_path / "out")
        kdlora.write_report(tmp_path / "out")
        assert (
            "half of the rows are ghosts" in (tmp_path / "out" / "report.md").read_text()
        ) == told
