"""A study of tiny random encoders on made-up moods: what runs are like without their training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdlora.models.checkpoints import quiet
from kdlora.spec.check import make_study
from kdlora.spec.plan import Plan, make_plan
from kdlora.spec.study import Study
from tests.harness.moods import sentences, write_csv
from tests.harness.tiny_models import save_tiny_encoder

ARMS = (
    "teacher/fft",
    "student/fft",
    "student/lora",
    "student/kd-lora",
    "student/kd-dora",
    "student/kd-olora",
)


def tiny_study(folder: Path, *, seeds: int, rows: int = 64, **changes: Any) -> Study:
    """Encoders and texts below `folder`, and the study of them: six runs a seed."""
    if not (folder / "dev.csv").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            save_tiny_encoder(folder / "teacher", "bert", layers=2, seed=1)
            save_tiny_encoder(folder / "student", "distilbert", layers=1, seed=2)
        for name, n, seed in (("train", rows, 3), ("dev", 24, 4)):
            texts, moods = sentences(n, seed)
            write_csv(folder / f"{name}.csv", review=texts, mood=moods)
    task = {"name": "moods", "train": str(folder / "train.csv"), "eval": str(folder / "dev.csv")}
    task |= {"text": "review", "label": "mood"}
    pair = {"teacher": str(folder / "teacher"), "student": str(folder / "student")}
    values: dict[str, Any] = {
        "name": "tiny",
        "tasks": [task],
        "pairs": [{"name": "tiny", **pair}],
        "arms": list(ARMS),
        "baselines": False,
        "seeds": list(range(1, seeds + 1)),
        "training": {"epochs": 1, "batch_size": 16, "max_length": 16, "precision": "fp32"},
        "adapter": {"rank": 2},
        "data": {"selection_min": 16},
    }
    return make_study(values | changes)


def tiny_plan(folder: Path, *, runs: int) -> Plan:
    """The first `runs` runs of as many seeds as that takes."""
    plan = make_plan(tiny_study(folder, seeds=-(-runs // len(ARMS))))
    kept = {run.run_id for run in plan.runs[:runs]}
    return Plan(plan.runs[:runs], [cell for cell in plan.cells if cell.run_id in kept])
