"""Synthetic studies, shaped as `records.frame.load_frame` gives them, and ways to spoil them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from kdlora.vocabulary.arm import teaching_arm

ARMS = ("teacher/fft", "teacher/lora", "student/fft", "student/lora", "student/kd-lora")
# Distance of an arm's score from the teacher's, and what its model costs.
LEVELS = {
    "teacher/fft": 0.0, "teacher/lora": -0.006, "student/fft": -0.031, "student/lora": -0.042,
    "student/kd-lora": -0.034, "baseline/tfidf": -0.085,
}  # fmt: skip
METRICS = {"stsb": "pearson", "cola": "matthews", "toxicity": "rmse"}
TOPS = {"movie-reviews": 0.842, "rte": 0.691, "cola": 0.534, "stsb": 0.874, "mrpc": 0.861,
        "sst2": 0.921, "toxicity": 0.214}  # fmt: skip
PROTOCOL = {
    "merged": True, "seq_length": 64, "batch_latency": 1, "batch_throughput": 32, "threads": 2,
    "dtype": "float32", "device": "cpu", "warmups": 5, "repeats": 40,
}  # fmt: skip
ENVIRONMENT = {
    "data_fingerprint": "5f0c9a31d2e47b86", "python": "3.11.9", "system": "Linux x86_64",
    "processor": "Intel Xeon Platinum 8481C", "cores": 2, "threads": 2, "gpu": None,
    "versions": {"kdlora": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
    "commit": "af2c30c1d9be",
}  # fmt: skip


def make_frame(
    tasks: Iterable[str] = ("movie-reviews",),
    *,
    seeds: Iterable[int] = (42, 43),
    arms: Iterable[str] = ARMS,
    pair: str = "minilm-l6--minilm-l3",
    baselines: bool = True,
    noise: float = 0.004,
) -> pd.DataFrame:
    """All cells done and healthy; the baselines stand in one row a seed, as a plan has them."""
    rng = np.random.default_rng(7)
    arms = tuple(arms)
    teacher = str(teaching_arm(arms, given="teacher/given" in arms))
    rows = []
    for task in tasks:
        for seed in seeds:
            planned = [*(("baseline/majority", "baseline/tfidf") if baselines else ()), *arms]
            rows += [_row(task, arm, seed, pair, teacher, rng.normal(0, noise)) for arm in planned]
    return pd.DataFrame(rows)


def _row(task: str, arm: str, seed: int, pair: str, teacher: str, noise: float) -> dict[str, Any]:
    role, _, rest = arm.partition("/")
    metric = METRICS.get(task, "accuracy")
    direction = -1 if metric == "rmse" else 1
    row: dict[str, Any] = {
        "study": "synthetic",
        "pair": pair,
        "task": task,
        "role": role,
        "arm": arm,
        "adaptation": rest.removeprefix("kd-"),
        "distillation": "kd" if rest.startswith("kd-") else "none",
        "seed": 0 if role == "baseline" else seed,
        "teacher": "minilm-l6",
        "student": "minilm-l3",
        "encoder": {"teacher": "minilm-l6", "student": "minilm-l3"}.get(role),
        "metric": metric,
        "direction": direction,
        "status": "done",
        "error": None,
        "flags": (),
        "flag_details": (),
        "flag_severities": (),
        "n_train": 9577,
        "n_selection": 1064,
        "n_report": 2111,
        "environment": ENVIRONMENT,
    }
    row["run_id"] = _run_id(task, arm, row["seed"])
    row["teacher_run_id"] = _run_id(task, teacher, seed) if "/kd-" in arm else None
    row |= _scores(arm, task, metric, direction, 0.0 if role == "baseline" else noise)
    row |= _costs(role, rest) | {"source": f"runs/{row['run_id']}/record.json"}
    return row


def _run_id(task: str, arm: str, seed: int) -> str:
    return f"{task}-{arm.replace('/', '-')}-s{seed}-0a1b2c3d4e5f"


def _scores(arm: str, task: str, metric: str, direction: int, noise: float) -> dict[str, Any]:
    top = TOPS[task]
    if arm == "baseline/majority":
        score = {"matthews": 0.0, "pearson": np.nan, "rmse": 0.36}.get(metric, 0.503)
    else:
        score = top + direction * (LEVELS.get(arm, -0.03) + noise)
    found = {"score": score, "selection_score": score + 0.004, f"report.{metric}": score}
    if metric == "accuracy":
        found |= {"report.macro_f1": score - 0.002, "report.ece": 0.041}
        found |= {"task_kind": "classification", "label_names": ("negative", "positive")}
        found["per_class_f1"] = {"negative": score - 0.01, "positive": score + 0.008}
    if "/kd-" in arm and metric in ("accuracy", "matthews"):
        found |= {"agreement": 0.902, "kappa": 0.804, "agreement_lower": score + top - 1,
                  "agreement_upper": 1 - abs(score - top), "agreement_chance": 0.5001,
                  "teacher_score": top}  # fmt: skip
    return found


def _costs(role: str, rest: str) -> dict[str, Any]:
    if rest == "majority":
        return {"trainable_params": 2, "total_params": 2, "precision": "fp64", "device": "cpu"}
    if rest == "tfidf":
        return {"trainable_params": 48211, "total_params": 48211, "size_mb": 1.42, "train_s": 0.81,
                "latency_p50_ms": 0.313, "latency_p95_ms": 0.402, "throughput_per_s": 9120.0,
                "precision": "fp64", "device": "cpu",
                "protocol": {"texts": "report split", "batch_latency": 1}}  # fmt: skip
    big, full = role == "teacher", rest.endswith("fft")
    total = 22_713_986 if big else 17_389_058
    settings: dict[str, Any] = {
        "trainable_params": total if full else (1_180_418 if big else 591_362),
        "total_params": total,
        "size_mb": 90.9 if big else 69.6,
        "train_s": (61.2 if big else 33.5) * (1 if full else 0.83),
        "peak_memory_mb": 1130.0 if big else 861.0,
        "forward_flops": 1.39e9 if big else 0.69e9,
        "train_flops": 9.1e13 if big else 4.4e13,
        "latency_p50_ms": 5.12 if big else 2.77,
        "latency_p95_ms": 5.9 if big else 3.21,
        "throughput_per_s": 421.0 if big else 803.0,
        "speedup_latency": 1.0 if big else 1.87,
        "lr": 1e-4 if full else 1e-3,
        "batch_size": 32,
        "epochs": 3,
        "max_length": 128,
        "precision": "bf16",
        "device": "cpu",
        "protocol": PROTOCOL,
    }
    if not full:
        settings |= {"rank": 16, "alpha": 32.0}
    return settings


def put(frame: pd.DataFrame, where: dict[str, Any], **values: Any) -> pd.DataFrame:
    """A copy in which the matching rows have other values."""
    changed = frame.copy()
    match = np.logical_and.reduce([changed[k] == v for k, v in where.items()])
    assert match.any(), f"no row with {where}"
    for name, value in values.items():
        column = changed[name].astype(object) if name in changed else pd.Series(None, changed.index)
        column = column.astype(object)
        for index in changed.index[match]:
            column.at[index] = value
        changed[name] = column
    return changed


def blank(frame: pd.DataFrame, where: dict[str, Any], status: str, error: str | None = None):
    """A copy in which the matching rows are failed or missing: they know only what was planned."""
    planned = {"study", "run_id", "pair", "task", "role", "adaptation", "distillation", "arm",
               "seed", "teacher", "student", "encoder", "lr", "source"}  # fmt: skip
    nothing: dict[str, Any] = {name: None for name in frame if name not in planned}
    return put(frame, where, **nothing | {"status": status, "error": error, "flags": ()})


def make_histories(frame: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Three evaluations for each trained run that is done."""
    trained = frame[(frame["role"] != "baseline") & (frame["status"] == "done")]
    return {
        row["run_id"]: [
            {"step": 300 * k, "epoch": float(k), "train_loss": 0.7 / k, "lr": 1e-4,
             "selection": {row["metric"]: row["selection_score"] * (0.9 + 0.033 * k)}}
            for k in (1, 2, 3)
        ]
        for row in trained.to_dict("records")
    }  # fmt: skip


def with_prefix(frame: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """A copy whose runs have other ids, so that it can stand beside the original."""
    columns = [name for name in ("run_id", "teacher_run_id") if name in frame]
    return frame.assign(
        **{name: [prefix + v if isinstance(v, str) else v for v in frame[name]] for name in columns}
    )
