"""Every example and every preset is read; the one with its own data is run, on tiny encoders."""

from __future__ import annotations

from pathlib import Path

import pytest

import kdlora
from kdlora.spec.plan import make_plan
from kdlora.spec.study import read_study

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([*ROOT.glob("examples/*.yaml"), *ROOT.glob("src/kdlora/spec/presets/*.yaml")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_study_file_plans(path):
    plan = make_plan(read_study(path))
    assert {"teacher", "student", "baseline"} == {run.role for run in plan.runs}
    assert any(run.distillation == "kd" for run in plan.runs)


def test_the_example_with_its_own_data_runs(corner, tmp_path):
    pairs = [{"name": "tiny", "teacher": corner.teacher, "student": corner.student}]
    study = read_study(
        ROOT / "examples" / "own-data.yaml",
        pairs=pairs,
        training={"epochs": 4, "batch_size": 16, "max_length": 32, "lr": 3e-3},
    )
    result = kdlora.run(study, out=tmp_path / "out", workers=2, threads=1)
    assert set(result.status.values()) == {"done"}
    assert result.frame.set_index("arm").loc["student/kd-lora", "temperature"] == 4.0
    assert "report.f1" in result.frame
