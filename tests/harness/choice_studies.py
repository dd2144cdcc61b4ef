"""Small studies with known scores, costs and predictions, for recommendation and matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from kdlora.records.predictions import SplitOutputs

PROTOCOL = {"seq_length": 64, "dtype": "float32"}


def row(arm: str, *, score: float, seed: int = 1, task: str = "t", **values: object) -> dict:
    """A finished run; the score holds on both splits unless told otherwise."""
    role, _, rest = arm.partition("/")
    kd = rest.startswith("kd-")
    base = {
        "arm": arm, "role": role, "task": task, "seed": seed, "pair": "p", "status": "done",
        "adaptation": rest.removeprefix("kd-"), "distillation": "kd" if kd else "none",
        "encoder": {"teacher": "big", "student": "small"}[role], "teacher": "big",
        "student": "small", "metric": "accuracy", "direction": 1, "score": score,
        "selection_score": score, "report.accuracy": score, "flags": (), "flag_severities": (),
        "run_id": f"{arm.replace('/', '-')}-{seed}", "protocol": PROTOCOL,
        "size_mb": 400.0 if role == "teacher" else 80.0,
        "latency_p50_ms": 40.0 if role == "teacher" else 8.0,
        "latency_p95_ms": 50.0 if role == "teacher" else 10.0,
        "total_params": 100e6 if role == "teacher" else 20e6,
    }  # fmt: skip
    return base | {"source": f"/study/runs/{base['run_id']}/record.json"} | values


def study(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame(list(rows))


def outputs_of(
    accuracies: Mapping[str, float], *, n: int = 1000, seed: int = 0, offset: int = 0
) -> dict[str, SplitOutputs]:
    """Binary predictions with exactly these accuracies; errors are independent of each other."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    ids = np.array([f"e{i + offset}" for i in range(n)], object)
    found = {}
    for run, accuracy in accuracies.items():
        wrong = rng.permutation(n)[: round(n * (1 - accuracy))]
        said = labels.copy()
        said[wrong] = 1 - said[wrong]
        found[run] = SplitOutputs(ids, labels, np.eye(2)[said] * 4.0 - 2.0)
    return found


TEACHERS, STUDENTS = {"big": 0.90, "huge": 0.91}, {"small": 0.84, "tiny": 0.78}
# big-small, big-tiny, huge-small, huge-tiny: student effect 3, teacher effect 1, no interaction
CELLS = {("big", "small"): 0.85, ("big", "tiny"): 0.79,
         ("huge", "small"): 0.87, ("huge", "tiny"): 0.81}  # fmt: skip


def matrix_study(
    seeds: Iterable[int] = (1,), cells: Mapping[tuple[str, str], float] = CELLS
) -> pd.DataFrame:
    """Two teachers by two students on one task, with their controls."""
    rows = []
    for seed in seeds:
        for (teacher, student), score in cells.items():
            pair = f"{teacher}--{student}"
            place = {"pair": pair, "teacher": teacher, "student": student, "seed": seed}
            rows.append(row("teacher/fft", score=TEACHERS[teacher], encoder=teacher,
                            **place | {"run_id": f"{teacher}-{seed}"}))  # fmt: skip
            rows.append(row("student/lora", score=STUDENTS[student], encoder=student,
                            **place | {"run_id": f"{student}-{seed}"}))  # fmt: skip
            rows.append(row(
                "student/kd-lora", score=score, encoder=student, agreement=0.86, kappa=0.7,
                agreement_lower=0.7, agreement_upper=0.95, agreement_chance=0.5,
                speedup_latency=4.0, teacher_run_id=f"{teacher}-{seed}",
                label_names=("no", "yes"),
                per_class_f1={"no": 0.9, "yes": 0.8}, confusion=[[700, 50], [100, 150]],
                **place | {"run_id": f"{pair}-{seed}"},
            ))  # fmt: skip
    return study(*rows)
