"""Every example in docs/distillation.md is a study that plans, and means what the text says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from kdlora.spec.check import make_study
from kdlora.spec.distillation import SIGNALS, Distillation
from kdlora.spec.plan import make_plan
from kdlora.spec.run import DistilledRun
from tests.harness.moods import write_csv

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "distillation.md").read_text("utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]
BASE = {
    "name": "docs",
    "tasks": ["mnli"],
    "pairs": [{"name": "p", "teacher": "mpnet-base", "student": "minilm-l6"}],
    "arms": ["teacher/fft", "student/kd-lora", "student/kd-fft"],
}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: "-".join(block))
def test_an_example_plans(block, tmp_path):
    for name in ("reviews.csv", "train.csv", "more.csv", "answers.csv", "sst2-votes.csv",
                 "texts.csv", "gold.csv"):  # fmt: skip
        write_csv(tmp_path / name, any=["x"])
    study = make_study({**BASE, **block, "base_dir": str(tmp_path)})
    runs = make_plan(study).runs
    students = [run for run in runs if isinstance(run, DistilledRun)]
    assert students
    if "teacher_seeds" in block.get("distillation", {}):
        assert all(len(run.teachers) == 3 for run in students)
    if "unlabelled" in str(block):
        assert any(run.unlabelled for run in students)
        assert all(run.kd.unlabelled == bool(run.unlabelled) for run in students)
    if "teacher_outputs" in str(block):
        assert {run.arm for run in runs if run.role == "teacher"} == {"teacher/given"}


def test_every_option_is_described():
    for name in (*Distillation.model_fields, *SIGNALS):
        assert f"`{name}`" in TEXT or any(name in str(block) for block in BLOCKS), name
    written = "\n".join(map(str, BLOCKS))
    for signal in SIGNALS:
        assert f"'{signal}'" in written, signal


def test_the_stated_defaults_are_the_defaults():
    defaults = Distillation()
    assert BLOCKS[0]["distillation"] == {
        "temperature": defaults.temperature,
        "kd_weight": defaults.kd_weight,
    }
    assert defaults.signals.names == ("kl",)
    assert defaults.hidden_cache_mb == 2000
    assert defaults.unlabelled is True
