from __future__ import annotations

import pytest

from kdlora.errors import StoreError
from kdlora.records.frame import load_frame, read_plan, save_plan
from kdlora.records.record import Agreement, Efficiency, Flag, Quality, Record
from kdlora.records.store import Store
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan


@pytest.fixture
def matrix(tmp_path):
    """Two teachers, one student, only some runs done."""
    study = make_study(
        {
            "name": "m",
            "tasks": ["rte"],
            "pairs": [{"name": t, "teacher": t, "student": "small"} for t in ("b1", "b2")],
            "arms": ["teacher/fft", "student/lora", "student/kd-lora"],
        }
    )
    plan, store = make_plan(study), Store(tmp_path)
    store.prepare()
    save_plan(store, study, plan)
    for run in plan.runs:
        if run.arm in ("teacher/fft", "student/kd-lora"):
            continue
        store.begin(run)
        quality = Quality(
            primary="accuracy",
            direction=1,
            splits={"selection": {"accuracy": 0.6}, "report": {"accuracy": 0.7, "ece": None}},
            n={"train": 9, "selection": 4, "report": 4},
        )
        store.finish(
            Record(
                run_id=run.run_id,
                run=run,
                quality=quality,
                agreement=Agreement(teacher_run_id="t", agreement=0.9),
                efficiency=Efficiency(size_mb=12.5),
                health=[Flag(name="never_improved", severity="warning", detail="so it is")],
            )
        )
    failing = next(r for r in plan.runs if r.arm == "teacher/fft")
    store.begin(failing)
    store.fail(Record(run_id=failing.run_id, run=failing, status="failed", error="no memory"))
    return load_frame(tmp_path)


def test_every_planned_cell_has_a_row(matrix):
    assert len(matrix) == 2 * (3 + 3)
    assert matrix["status"].value_counts().to_dict() == {"done": 8, "missing": 3, "failed": 1}


def test_a_shared_run_stands_under_each_pair_with_one_id(matrix):
    rows = matrix[matrix["arm"] == "student/lora"]
    assert list(rows["pair"]) == ["b1", "b2"]
    assert list(rows["teacher"]) == ["b1", "b2"]
    assert rows["run_id"].nunique() == 1


def test_facts_keep_their_names_and_values(matrix):
    row = matrix[matrix["arm"] == "student/lora"].iloc[0]
    assert row["score"] == row["report.accuracy"] == 0.7
    assert row["selection_score"] == 0.6
    assert row["size_mb"] == 12.5
    assert row["agreement"] == 0.9
    assert row["flags"] == ("never_improved",)
    assert row["direction"] == 1
    assert row["rank"] == 16


def test_a_failure_tells_its_error(matrix):
    row = matrix[matrix["status"] == "failed"].iloc[0]
    assert row["error"] == "no memory"
    assert row["flags"] == ()


def test_a_folder_without_a_study_is_explained(tmp_path):
    with pytest.raises(StoreError, match=r"no study '.*nothing'"):
        load_frame(tmp_path / "nothing")
    with pytest.raises(StoreError, match="holds no study"):
        load_frame(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(StoreError, match="cannot read"):
        read_plan(tmp_path)
