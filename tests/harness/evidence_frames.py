"""Frames for the tests of the evidence: small grids, and the 742 runs as they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

VARIANTS = ("adalora", "dora", "lora", "mrlora", "olora", "rslora")


def grid(
    score: Callable[[str, str, str, int], float],
    *,
    arms: Sequence[str] = ("teacher/fft", "student/kd-lora"),
    pairs: Sequence[str] = ("bert",),
    tasks: Sequence[str] = ("t0", "t1"),
    seeds: Sequence[int] = (1, 2, 3),
    metric: str = "accuracy",
    **columns: object,
) -> pd.DataFrame:
    """A complete grid; `score(arm, pair, task, seed)` fills it."""
    rows = [
        {
            "arm": arm,
            "role": arm.split("/")[0],
            "adaptation": arm.split("/")[1].removeprefix("kd-"),
            "pair": pair,
            "task": task,
            "seed": seed,
            "score": score(arm, pair, task, seed),
            "run_id": f"{arm}-{pair}-{task}-{seed}",
            "metric": metric,
            "direction": 1,
            "status": "done",
        }
        for arm in arms
        for pair in pairs
        for task in tasks
        for seed in seeds
    ]
    return pd.DataFrame(rows).assign(**columns)


def noisy(gain: float, *, seed: int = 0, spread: float = 0.01) -> Callable[..., float]:
    """Scores near 0.8 whose first arm of a grid (not a student) is `gain` better."""
    rng = np.random.default_rng(seed)

    def score(arm: str, pair: str, task: str, run: int) -> float:
        return 0.8 + gain * (not arm.startswith("student")) + rng.normal(0, spread)

    return score


def runs_742(shared: Path) -> pd.DataFrame:
    """The reference runs under the columns of the tidy frame."""
    runs = pd.read_csv(shared / "reference" / "runs.csv")
    role = runs["strategy"].map({"fft": "teacher/", "lora": "teacher/", "kd-lora": "student/kd-"})
    return runs.assign(
        arm=role + runs["peft"],
        role=role.str.split("/").str[0],
        adaptation=runs["peft"],
        pair=runs["family"],
        score=runs["metric_value"],
        metric="accuracy",
        direction=1,
        run_id=runs["source_path"],
        status="done",
        per_gpu=runs["train_samples_per_second"] / runs["n_gpus_inferred"],
    )


def with_sparse_rank(frame: pd.DataFrame, tasks: Sequence[str], *, n: int) -> pd.DataFrame:
    """The frame and `n` more runs on `tasks` as they are, but with rank 16 and a better score: of
    the distilled students first, then of the adapters on the teacher."""
    adapters = frame[(frame["rank"] == 8) & frame["task"].isin(tasks)]
    order = adapters["arm"].str.contains("/kd-").map({True: 0, False: 1})
    first = adapters.assign(_order=order, _nth=adapters.groupby("arm").cumcount())
    kept = first.sort_values(["_nth", "_order", "arm"], kind="stable")[:n]
    extra = kept.drop(columns=["_order", "_nth"]).assign(rank=16.0)
    extra["score"] = (extra["score"] + 0.03).clip(upper=1.0)
    extra["run_id"] = [f"rank-16-{i}" for i in range(len(extra))]
    return pd.concat([frame, extra], ignore_index=True)
